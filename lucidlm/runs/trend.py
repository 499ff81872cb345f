"""The trend of a run's losses: losses at its validations in; best, level, noise, rise and fall out.

n validations; arrays (..., n), so that one call simulates many runs. Relative numbers are shares of the
level. The thresholds were set by simulations of runs with known curves and noise: docs/numbers.md.
"""

from dataclasses import dataclass

import numpy as np

WORSE = 0.005
"""A rise of the level above the best by this share counts, unless it may be noise."""
CERTAIN_RISE, CERTAIN_FALL = 0.06, 0.02
"""A rise by this share, or a fall by this share over a fifth of the steps, counts whatever the noise is."""
FALLING = 0.004
"""Losses that fall by this share over a fifth of the steps still fall: twice the steps would give 2 %."""
CLEAR = 0.002
"""Up to this standard error of the fall, the second half of the losses is enough to measure it."""
USUAL_NOISE = 0.004
"""Noise assumed for few validations: it counts as one measured difference."""
OVER_BEST, OVER_LOW, OVER_LEVEL = 4.0, 3.5, 6.0
"""Standard deviations of the noise by which the end must exceed the best loss and the lowest running median
of three, and by which the last loss must exceed the level. The lowest of a dozen flat losses is 1.6 standard
deviations below their median, so the best alone is a biased reference."""


@dataclass(frozen=True, slots=True)
class Trend:
    """The trend of each run: arrays with the shape of the losses without their last axis."""

    best: np.ndarray
    """Index of the lowest loss, the earliest of equals."""
    level: np.ndarray
    """Median of the last third of the losses: one lucky or unlucky validation does not move it."""
    noise: np.ndarray
    """Standard deviation of one loss about the curve, relative."""
    rise: np.ndarray
    """How far the end (level or last loss, the lower one) is above the lowest loss, relative."""
    rose: np.ndarray
    """Whether that is more than noise."""
    jumped: np.ndarray
    """Whether the last loss alone is far above the level."""
    fall: np.ndarray
    """How far the loss falls over the last fifth of the steps, relative."""
    falling: np.ndarray
    """Whether that is more than noise."""


def trend_of(steps: np.ndarray, losses: np.ndarray) -> Trend:
    """The trend of losses (..., n) at steps (n,), n >= 1, without the loss of the untrained model."""
    steps, losses = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    level, noise = level_of(losses), noise_of(losses)
    least = losses.min(-1)
    base = np.maximum(least, 1e-12)
    # The last loss too: while losses still fall, the level is above the last and lowest.
    end = np.minimum(level, losses[..., -1])
    rise = (end - least) / base
    rose = rise > np.maximum(WORSE, np.minimum(OVER_BEST * noise, CERTAIN_RISE))
    if losses.shape[-1] >= 5:
        low = medians_of_three(losses).min(-1)
        rose &= (end - low) / base > np.maximum(WORSE, np.minimum(OVER_LOW * noise, CERTAIN_RISE / 2))
    jump = (losses[..., -1] - level) / base
    jumped = jump > np.maximum(WORSE, np.minimum(OVER_LEVEL * noise, CERTAIN_RISE))
    fall, error = _fall(steps, losses, level, noise)
    falling = (fall > np.maximum(FALLING, np.minimum(2 * error, CERTAIN_FALL))) & ~rose & ~jumped
    return Trend(losses.argmin(-1), level, noise, rise, rose, jumped, fall, falling)


def level_of(losses: np.ndarray) -> np.ndarray:
    """Median of the last third of the losses, at least of the last one."""
    return np.median(losses[..., -max(1, -(-losses.shape[-1] // 3)) :], -1)


def noise_of(losses: np.ndarray) -> np.ndarray:
    """Standard deviation of one loss about its curve, as a share of the level.

    From second differences, which are near 0 on a smooth curve: after its low, or in the last half.
    """
    n = losses.shape[-1]
    if n < 3:
        return np.full(losses.shape[:-1], USUAL_NOISE)
    low = medians_of_three(losses).argmin(-1) + 1
    first = np.minimum(low, max(0, n - max(5, -(-n // 2))))
    # Var(a - 2 b + c) = 6 sigma^2.
    bends = np.diff(losses, 2, axis=-1) / np.maximum(level_of(losses), 1e-12)[..., None]
    kept = np.arange(n - 2) >= first[..., None]
    squares = USUAL_NOISE**2 + (bends**2 * kept).sum(-1) / 6
    return np.sqrt(squares / (1 + kept.sum(-1)))


def medians_of_three(losses: np.ndarray) -> np.ndarray:
    """Running medians of three, (..., n - 2): they do not contain single outliers."""
    return np.median(np.lib.stride_tricks.sliding_window_view(losses, 3, axis=-1), -1)


def _fall(
    steps: np.ndarray, losses: np.ndarray, level: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fall over a fifth of the steps, relative, and its standard error: the slope of a straight line.

    The line is fitted to the second half of the losses; if those are too noisy, to all losses near the level.
    """
    n = len(steps)
    if n >= 3:  # without outliers, which a least-squares line would follow
        losses = np.concatenate((losses[..., :1], medians_of_three(losses), losses[..., -1:]), -1)
    x = steps / max(float(steps[-1]), 1.0)
    half = np.broadcast_to(np.arange(n) >= n - max(min(n, 3), -(-n // 2)), losses.shape)
    # All losses after the last one that is far above the level: before it the slope was another one.
    far = (losses > (level * (1 + np.clip(3.5 * noise, 0.015, 0.05)))[..., None])[..., ::-1]
    near = ~np.logical_or.accumulate(far, axis=-1)[..., ::-1] | half
    by_half, error = _slope(x, losses, half, level, noise)
    by_all, error_of_all = _slope(x, losses, near, level, noise)
    clear = error <= CLEAR
    return np.where(clear, by_half, by_all), np.where(clear, error, error_of_all)


def _slope(
    x: np.ndarray, losses: np.ndarray, kept: np.ndarray, level: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares fall over 0.2 of x, relative, and its standard error, of the losses that are `kept`."""
    middle = (kept * x).sum(-1) / kept.sum(-1)
    away = kept * (x - middle[..., None])
    spread = np.maximum((away**2).sum(-1), 1e-12)
    scale = np.maximum(level, 1e-12)
    return -0.2 * (away * losses).sum(-1) / spread / scale, 0.2 * noise / np.sqrt(spread)
