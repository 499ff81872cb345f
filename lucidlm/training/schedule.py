"""The learning rate's schedule: corners (step, factor) of a line in, the factor of a step out.

A plan keeps the corners, so that a run which must end earlier or later moves them and writes them down.
"""

Schedule = tuple[tuple[int, float], ...]
"""Corners (step, factor): the learning rate is its peak times the factor, linear in between."""


def learning_rate_factor(schedule: Schedule, step: int) -> float:
    """Factor of the learning rate at a step: linear between the corners, constant before and after them.

    >>> learning_rate_factor(((0, 1.0), (10, 0.0)), 5)
    0.5
    """
    before = schedule[0]
    for corner in schedule:
        if corner[0] > step:
            if before[0] >= corner[0] or step < before[0]:
                return corner[1]
            part = (step - before[0]) / (corner[0] - before[0])
            return before[1] + part * (corner[1] - before[1])
        before = corner
    return before[1]


def trapezoid(steps: int, *, warmup_steps: int, decay_fraction: float) -> Schedule:
    """A warm-up / stable / decay schedule: the decay to 0 takes the last part of the run (Hagele 2024).

    >>> trapezoid(100, warmup_steps=10, decay_fraction=0.4)
    ((-1, 0.0), (9, 1.0), (60, 1.0), (100, 0.0))
    """
    warmup = min(warmup_steps, steps // 2)
    down = max(warmup, min(steps - 1, round(steps * (1 - decay_fraction))))
    # The warm-up starts one step before the first, so that the first step has a rate above 0.
    corners = [(-1, 0.0), (warmup - 1, 1.0)] if warmup else [(0, 1.0)]
    if decay_fraction > 0:
        corners += [(down, 1.0), (steps, 0.0)]
    return tuple(dict(corners).items())


def shortened(schedule: Schedule, *, step: int, steps: int) -> Schedule:
    """The same schedule up to `step`, and from there a linear decay to 0 at `steps`."""
    past = tuple(corner for corner in schedule if corner[0] < step)
    return (*past, (step, learning_rate_factor(schedule, step)), (steps, 0.0))


def moved(schedule: Schedule, *, down: int, steps: int) -> Schedule:
    """The same schedule with its decay from `down` to `steps`.

    Where `down` is within the warm-up, the decay begins at the rate that the warm-up has reached there.
    """
    flat = schedule[:-1]
    if len(flat) > 1 and flat[-1][1] == flat[-2][1]:
        flat = flat[:-1]  # the old beginning of the decay
    return shortened(flat, step=down, steps=steps)
