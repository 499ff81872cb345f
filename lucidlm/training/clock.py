"""How long a training has taken and when it must be done: steps are counted in, seconds come out."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Clock:
    """How long a run has taken, and when it must be done."""

    began: float = field(default_factory=time.perf_counter)
    used_before_s: float = field(default_factory=time.thread_time)
    """What this thread had computed before the beginning."""
    deadline_s: float | None = None
    """Seconds after the beginning; None for a run that never looks at the clock."""
    first: tuple[int, float] | None = None
    """The step and the time from which the speed is counted."""
    seconds_per_step: float = 0.0
    """Mean over all steps so far, validations and checkpoints included."""
    looked: bool = False

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.began

    @property
    def core_share(self) -> float:
        """How much of a core this thread got since the beginning: it computes nearly all the time."""
        return min(1.0, (time.thread_time() - self.used_before_s) / max(1e-9, self.elapsed_s))

    def left_s(self, *, reserve_s: float) -> float:
        """Seconds until the deadline less what the end will take."""
        return max(0.0, (self.deadline_s or float("inf")) - self.elapsed_s - reserve_s)

    def start_anew(self, step: int) -> None:
        """Counts the speed from this step on: what was before says nothing about what comes."""
        self.first = step, self.elapsed_s

    def left_until(self, deadline_s: float) -> float:
        """Seconds until a time that need not be the deadline yet."""
        return max(0.0, deadline_s - self.elapsed_s)

    def count(self, step: int) -> None:
        """Takes note that a step has ended. The first one warms caches up, so that it is not counted."""
        if self.first is None:
            self.first = step, self.elapsed_s
        elif step > self.first[0]:
            self.seconds_per_step = (self.elapsed_s - self.first[1]) / (step - self.first[0])
