"""How far a mean may be from the truth: sums of units in, a 95 % interval and what it is of out.

n units: pieces of a book (strata), documents, or consecutive blocks of one text (pages). Which they are
decides what the interval can be of, and how its variance is found; docs/measure.md, "How sure the number is".
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

Design = Literal["strata", "documents", "pages"]

FEWEST_PIECES = 5
FEWEST_DOCUMENTS = 5
"""Effective documents, (sum c)^2 / sum c^2: what one large document outweighs are not many."""
FEWEST_BLOCKS = 24
LEVEL = 0.975
"""Quantile of each end."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval, and of what."""

    low: float
    high: float
    of: str
    """"book", "documents" or "pages": whose true mean it is to hold."""
    units: int
    """Pieces, documents or blocks that it was found from."""
    method: str
    """How the variance was found."""
    degrees: float
    """Degrees of freedom of the t quantile."""
    caution: str = ""
    """Where it may hold the truth less often than in 95 of 100 cases, and why."""

    @property
    def clause(self) -> str:
        """What it is of, to follow "95 % interval"."""
        return {
            "book": "of this book",
            "documents": "of documents like these",
            "pages": "of pages like these, approximate",
        }[self.of]

    def __str__(self) -> str:
        """Both ends, to four places."""
        return f"{self.low:,.4f} to {self.high:,.4f}"


def interval_of_ratio(sums: np.ndarray, counts: np.ndarray, *, design: Design) -> tuple[Interval | None, str]:
    """The 95 % interval of sum(sums) / sum(counts), both (n,), a unit each, in the order of the text.

    Where there is none, the string says why; else it is empty.
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    assert sums.shape == counts.shape, "a sum and a count a unit"
    kept = counts > 0  # a document of which no token was scored is no unit
    sums, counts = sums[kept], counts[kept]
    if design == "strata":
        return _of_strata(sums, counts)
    if design == "documents":
        return _of_documents(sums, counts)
    assert design == "pages", design
    return _of_pages(sums, counts)


def _residuals(sums: np.ndarray, counts: np.ndarray) -> tuple[float, np.ndarray]:
    """The ratio, and each unit's distance from it in shares of the whole (n,): their sum is 0.

    Linearised (Cochran 1977, 6.4): the ratio's error is about the sum of the units' own.
    """
    ratio = float(sums.sum() / counts.sum())
    residuals = (sums - ratio * counts) / counts.sum()
    # Of units that the ratio fits exactly only rounding is left, and it must not make an interval.
    if np.abs(residuals).sum() <= 1e-12 * max(abs(ratio), 1e-300):
        residuals = np.zeros_like(residuals)
    return ratio, residuals


def _interval(ratio: float, variance: float, degrees: float, **rest: str | int) -> tuple[Interval, str]:
    half = t_quantile(degrees) * math.sqrt(max(0.0, variance))
    return Interval(ratio - half, ratio + half, degrees=degrees, **rest), ""  # ty: ignore


def _of_strata(sums: np.ndarray, counts: np.ndarray) -> tuple[Interval | None, str]:
    """Of a stratified sample of a book, one piece a stratum: successive differences (Wolter 2007, 8.2).

    One piece a stratum leaves no variance within it, so neighbouring strata stand for one another: their
    difference holds both pieces' variance, and how far the strata differ, which errs to the safe side.
    """
    n = len(sums)
    if n < FEWEST_PIECES:
        return None, f"no 95 % interval: {_plural(n, 'piece')} of the book held out, under {FEWEST_PIECES}"
    ratio, residuals = _residuals(sums, counts)
    steps = np.diff(residuals)
    variance = n / (2 * (n - 1)) * float(steps @ steps)
    # Neighbouring differences share a piece: 2 (n - 1)^2 / (3 n - 4) of them are independent.
    degrees = 2 * (n - 1) ** 2 / (3 * n - 4)
    return _interval(ratio, variance, degrees, of="book", units=n, method="successive differences of strata")


def _of_documents(sums: np.ndarray, counts: np.ndarray) -> tuple[Interval | None, str]:
    """Of documents as clusters: CR2 variance, Bell-McCaffrey degrees of freedom (Bell & McCaffrey 2002).

    Documents are taken to be independent, their losses to vary alike whatever their sizes, for the
    correction only: the variance itself is that of the residuals.
    """
    n = len(sums)
    effective = float(counts.sum() ** 2 / (counts @ counts)) if n else 0.0
    if effective < FEWEST_DOCUMENTS:
        return None, (
            f"no 95 % interval: {_plural(n, 'document')} of unequal size count as {effective:.1f} equal "
            f"ones, under {FEWEST_DOCUMENTS}; more documents have one"
            if n >= FEWEST_DOCUMENTS
            else f"no 95 % interval: {_plural(n, 'document')}, under {FEWEST_DOCUMENTS}; more have one"
        )
    ratio, residuals = _residuals(sums, counts)
    shares = counts / counts.sum()
    variance, degrees = _cluster_robust(residuals, shares, np.ones(n))
    return _interval(ratio, variance, degrees, of="documents", units=n, method="cluster-robust, CR2")


def _cluster_robust(residuals: np.ndarray, shares: np.ndarray, model: np.ndarray) -> tuple[float, float]:
    """Variance of a mean weighted by `shares` (n,), and its degrees of freedom, if documents vary as `model`.

    residuals (n,): shares * (mean of each - weighted mean). The mean's own error is in each of them, mostly
    in that of a large document, so that squares are too small; what they are under `model` (n,), variances
    up to a factor, is known, and each is corrected by it. Pairs of residuals in closed form: O(n).
    """
    parts = shares * model
    whole = float(shares @ parts)  # variance of the weighted mean
    expected = model - 2 * parts + whole  # variance of each distance from it
    weights = shares**2 * model / expected
    variance = float((residuals**2) @ (model / expected))
    # Satterthwaite: 2 E^2 / Var of sum a e^2; covariance of distances i != j: whole - parts_i - parts_j.
    zero, one, two = (float(weights @ parts**power) for power in (0, 1, 2))
    products = whole**2 * zero**2 + 2 * zero * two + 2 * one**2 - 4 * whole * zero * one
    same = float(weights**2 @ (expected**2 - (whole - 2 * parts) ** 2))
    return variance, whole**2 / (products + same)


def _of_pages(sums: np.ndarray, counts: np.ndarray) -> tuple[Interval | None, str]:
    """Of consecutive blocks of one text: equal-weighted cosines (Lazarus, Lewis, Stock & Watson 2018).

    The long-run variance is the mean power of the few slowest waves: what varies more slowly than blocks do.
    """
    n = len(sums)
    if n < FEWEST_BLOCKS:
        return (
            None,
            f"no 95 % interval: {_plural(n, 'block')} of text, under {FEWEST_BLOCKS}; a longer text has one",
        )
    ratio, residuals = _residuals(sums, counts)
    waves = _waves(n)
    places = (np.arange(n) + 0.5) / n
    powers = [2 * float(residuals @ np.cos(math.pi * wave * places)) ** 2 for wave in range(1, waves + 1)]
    return _interval(
        ratio,
        sum(powers) / waves,
        float(waves),
        of="pages",
        units=n,
        method=f"{waves} equal-weighted cosines",
    )


def _waves(n: int) -> int:
    """Cosines for n blocks: few, as real text changes slowly."""
    return max(2, min(8, round(0.5 * n**0.5)))


def t_quantile(degrees: float, level: float = LEVEL) -> float:
    """Student's t below which a share `level` lies; any degrees of freedom from 1 on, to six digits.

    With t = sqrt(degrees) tan(angle) the density is cos(angle)^(degrees - 1), which a Gauss-Legendre rule
    integrates to rounding; the quantile is found by halving.
    """
    nodes, weights = np.polynomial.legendre.leggauss(60)
    log_whole = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi) / 2

    def share(t: float) -> float:
        angle = math.atan(t / math.sqrt(degrees))
        at = angle / 2 * (nodes + 1)
        return 0.5 + angle / 2 * float(weights @ np.exp(log_whole + (degrees - 1) * np.log(np.cos(at))))

    low, high = 0.0, 1.0
    while share(high) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < level else (low, middle)
    return (low + high) / 2


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
