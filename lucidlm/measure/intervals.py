"""How far a mean may be from the truth: sums of blocks in, a 95 % interval by a block bootstrap out.

n blocks, R resamples. Tokens are not independent of their neighbours, but blocks of many nearly are.
"""

from dataclasses import dataclass

import numpy as np

FEWEST_BLOCKS = 10
MOST_BLOCKS = 1000
"""More blocks are joined with their neighbours: it costs nothing in width, and they depend less."""
DEPENDENT = 0.1
"""Neighbouring blocks that correlate by more than this are joined."""
RESAMPLES = 2000
LEAST_ERROR = 0.3
"""A resample's standard error is at least this share of that of all blocks."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval: it would hold the true value in about 95 of 100 texts of this kind."""

    low: float
    high: float
    blocks: int
    """Blocks that were drawn from."""

    def __str__(self) -> str:
        """Both ends, to four places."""
        return f"{self.low:,.4f} to {self.high:,.4f}"


def interval_of_ratio(sums: np.ndarray, counts: np.ndarray) -> Interval | None:
    """The 95 % interval of sum(sums) / sum(counts), both (n,), a block each; None for under 10 blocks.

    The studentised bootstrap (Efron & Tibshirani 1993, 12.5): blocks are drawn with replacement, and each
    resample's distance from the estimate is taken in units of its own standard error, as a t-statistic would.
    The plain percentiles are too narrow for 30 blocks, and blind to the skew of losses.
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    assert sums.shape == counts.shape, "a sum and a count a block"
    if len(sums) < FEWEST_BLOCKS:
        return None
    sums, counts = _independent(sums, counts)
    n = len(sums)
    estimate = sums.sum() / counts.sum()
    # Of blocks that the estimate fits exactly only rounding is left; it must not be studentised.
    sums = sums - estimate * counts
    products = np.stack((sums, counts, sums * sums, sums * counts, counts * counts), axis=1)  # (n, 5)
    if products[:, 2].sum() <= (1e-12 * max(abs(estimate), 1e-300) * counts.sum()) ** 2:
        return Interval(float(estimate), float(estimate), n)
    error = _error(products.sum(0), n)[1]
    # One fixed seed: the same numbers have the same interval.
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)  # (R, n)
    ratios, errors = _error((drawn @ products).T, n)
    # A resample that happens to miss the one block unlike the others knows nothing of its own error.
    distances = ratios / np.maximum(errors, LEAST_ERROR * error)
    far_left, far_right = np.quantile(distances, (0.025, 0.975))
    return Interval(float(estimate - far_right * error), float(estimate - far_left * error), n)


def _error(totals: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ratio and its standard error from n blocks' totals of (a, b, aa, ab, bb) (Cochran 1977, 6.4)."""
    a, b, aa, ab, bb = totals
    ratio = a / b
    squares = np.maximum(aa - 2 * ratio * ab + ratio * ratio * bb, 0.0)
    return ratio, np.sqrt(squares * n / (n - 1)) / b


def _independent(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same in fewer, longer blocks: few enough to draw from, and so long that neighbours do not depend.

    Losses of one text rise and fall together over a sentence or a chapter; drawn as if each block were news,
    they would give too narrow an interval.
    """
    size = -(-len(sums) // MOST_BLOCKS)
    sums, counts = _joined(sums, size), _joined(counts, size)
    while len(sums) >= 2 * FEWEST_BLOCKS and _correlation(sums, counts) > DEPENDENT:
        sums, counts = _joined(sums, 2), _joined(counts, 2)
    return sums, counts


def _correlation(sums: np.ndarray, counts: np.ndarray) -> float:
    """Of each block's distance from the mean with its neighbour's."""
    distances = sums - counts * (sums.sum() / counts.sum())
    squares = float(distances @ distances)
    return float(distances[1:] @ distances[:-1]) / squares if squares else 0.0


def _joined(values: np.ndarray, size: int) -> np.ndarray:
    """Sums of `size` neighbours each; what is left at the end goes to the last."""
    starts = np.arange(0, max(1, len(values) - size + 1), size)
    return np.add.reduceat(values, starts)
