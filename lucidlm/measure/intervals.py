"""How far a mean may be from the truth: sums of units in, a 95 % interval and what it is of out.

n units: pieces of a book (strata), documents, or consecutive blocks of one text (pages). Which they are
decides what the interval can be of, and how its variance is found; docs/measure.md, "How sure the number is".
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lucidlm.measure.clusters import cluster_robust, variances_of
from lucidlm.measure.quantiles import t_quantile
from lucidlm.measure.skewness import lean_of, skew_by_model, skewness_of
from lucidlm.runtime.wording import fixed, plural

Design = Literal["strata", "strata of documents", "documents", "pages"]
STRATA = ("strata", "strata of documents")
"""Pieces of one book, or of a few documents, one in each stratum."""

RECIPES = "recipes on "
FEWEST_PIECES = 5
FEWEST_DOCUMENTS = 5
"""Effective documents, (sum c)^2 / sum c^2: one large document among small ones counts as about one."""
FEWEST_BLOCKS = 40
HOLD_OUT_MORE = "hold out more (--val-fraction 0.2)"
"""What to do about a missing interval of a run's own held-out text."""
FEW = 30
"""Up to this number of units a rare outlier may be missing, and nothing in the sample shows that."""
UNLIKE = 20
"""If two recipes' variances over seeds differ by more than this factor, degrees of freedom are Welch's."""
FEW_EFFECTIVE = 50
"""Effective documents: 100 with log-normal sizes of sigma 1 count as about 40; rare ones may be missing."""
SLOW = 1.2
"""The power at frequency 0 is estimated by the slowest waves. It is larger than theirs where blocks depend on
their neighbours, so theirs is multiplied by this."""
SKEWED = 0.5
"""Losses of texts are skewed. A document's skewness is taken to be at least this, on both sides, as a few
documents may not show it."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval, and what it is an interval of."""

    low: float
    high: float
    of: str
    """"book", "these documents", "documents" or "pages": the population whose true mean it should contain.
    "recipes on ...": that of other runs, too."""
    units: int
    """Number of pieces, documents or blocks that it was computed from."""
    method: str
    """How the variance was found."""
    degrees: float
    """Degrees of freedom of the t quantile."""
    caution: str = ""
    """Where it may hold the truth less often than in 95 of 100 cases, and why."""

    @property
    def clause(self) -> str:
        """What it is of, to follow "95 % interval"."""
        text = {
            "book": "the whole text",
            "these documents": "these documents",
            "documents": "documents like these",
            "pages": "pages like these, approximate",
        }[self.of.removeprefix(RECIPES)]
        return f"for these recipes on {text}" if self.of.startswith(RECIPES) else f"for {text}"

    def __str__(self) -> str:
        """Both ends, to four places."""
        return f"{fixed(self.low, 4)} to {fixed(self.high, 4)}"


@dataclass(frozen=True, slots=True)
class NoInterval:
    """Why a number has no interval, and what to do to get one."""

    code: Literal["few_pieces", "few_documents", "few_blocks", "copies", "seen", "same_model", "other_bytes"]
    reason: str
    way_out: str = ""
    """"" where nothing can be done with this text."""

    def __str__(self) -> str:
        """One line."""
        way_out = f"; {self.way_out}" if self.way_out else ""
        return f"no 95 % interval: {self.reason}{way_out}"


MOSTLY_SEEN = NoInterval("seen", "the model was trained on most of this text")
"""An interval is about text that was not trained on."""


def interval_of_ratio(
    sums: np.ndarray,
    counts: np.ndarray,
    *,
    design: Design,
    fraction: float = 0.0,
    same: np.ndarray | None = None,
) -> tuple[Interval | None, NoInterval | None]:
    """The 95 % interval of sum(sums) / sum(counts), both (n,), a unit each, in the order of the text.

    Returns the interval and None, or None and the reason why there is none. `fraction` is the share of the
    book that the pieces are: that part is known exactly (strata only). Units with equal numbers in `same`
    (n,) are copies of each other and count as one unit.
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    assert sums.shape == counts.shape, "one sum and one count for each unit"
    if same is not None and len(numbers := np.unique(same)) < len(sums):
        if len(numbers) == 1:
            # Pages need not be copies: those of a text that mostly repeats itself are called the same.
            kind = "pieces" if design == "strata" else "documents"
            copies = f"its {len(sums):,} {kind} are copies of each other"
            why = "the text repeats itself" if design == "pages" else copies
            return None, NoInterval("copies", why)
        places = np.searchsorted(numbers, same)
        merged = [np.bincount(places, values) for values in (sums, counts)]
        interval, missing = interval_of_ratio(*merged, design=design, fraction=fraction)
        if missing is not None:
            counted = f"copies count once: {len(sums):,} are {len(numbers):,}"
            missing = replace(missing, reason=f"{missing.reason} ({counted})")
        return interval, missing
    kept = counts > 0  # a document of which no token was scored is no unit
    sums, counts = sums[kept], counts[kept]
    if design in STRATA:
        return _of_strata(sums, counts, fraction, of="book" if design == "strata" else "these documents")
    if design == "documents":
        return _of_documents(sums, counts)
    assert design == "pages", design
    return _of_pages(sums, counts)


def interval_of_recipes(
    a: np.ndarray,
    b: np.ndarray,
    counts: np.ndarray,
    *,
    design: Design,
    fraction: float = 0.0,
    same: np.ndarray | None = None,
) -> tuple[Interval | None, NoInterval | None]:
    """The 95 % interval of how much more recipe A costs than B, with other seeds and on other units.

    a (k_a, n), b (k_b, n): sums of each run, two or more of each, over the same units; counts (n,). Runs and
    units are crossed random effects, so the variance is that over runs, and that over units of the mean
    difference, less what is in both: what a run and a unit have of their own together (two-way clusters:
    Cameron, Gelbach & Miller 2011). Satterthwaite's degrees of freedom.
    """
    assert min(len(a), len(b)) >= 2, "two or more runs of each recipe"
    text, why = interval_of_ratio(a.mean(0) - b.mean(0), counts, design=design, fraction=fraction, same=same)
    if text is None:
        return None, why
    of_runs, degrees_of_runs = _over_runs(a, b, counts)
    both = sum(_of_run_and_unit(each, counts) for each in (a, b))
    estimate = float((a.mean(0) - b.mean(0)).sum() / counts.sum())
    ends, degrees = [], []
    for distance in (estimate - text.low, text.high - estimate):
        of_text = (distance / t_quantile(text.degrees)) ** 2
        whole = max(of_runs, of_text, of_runs + of_text - both)
        squares = of_runs**2 / degrees_of_runs + of_text**2 / text.degrees
        degrees.append(max(1.0, whole**2 / squares) if squares else text.degrees)
        # More degrees of freedom must not make it narrower than that of the text alone.
        ends.append(max(distance, t_quantile(degrees[-1]) * math.sqrt(whole)))
    low, high, method = (
        estimate - ends[0],
        estimate + ends[1],
        f"runs and units crossed; units: {text.method}",
    )
    return replace(text, low=low, high=high, of=RECIPES + text.of, method=method, degrees=min(degrees)), None


def _over_runs(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Variance of the difference of two recipes' means over their runs, and its degrees of freedom.

    Those of a pooled variance where the recipes have as many runs and vary about alike, else Welch's.
    """
    variances = [float(np.var(each.sum(1) / counts.sum(), ddof=1)) / len(each) for each in (a, b)]
    degrees = [len(each) - 1 for each in (a, b)]
    whole = sum(variances)
    if len(a) == len(b) and max(variances) <= UNLIKE * min(variances):
        return whole, float(sum(degrees))
    squares = sum(variance**2 / each for variance, each in zip(variances, degrees, strict=True))
    return whole, whole**2 / squares if squares else float(sum(degrees))


def _of_run_and_unit(sums: np.ndarray, counts: np.ndarray) -> float:
    """What runs (k, n) and units have of their own together, as a variance of the runs' mean."""
    k, _ = sums.shape
    ratios = sums.sum(1) / counts.sum()
    own = sums - sums.mean(0) - (ratios - ratios.mean())[:, None] * counts
    return float((own**2).sum()) / (counts.sum() ** 2 * k * (k - 1))


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


def _of_strata(
    sums: np.ndarray, counts: np.ndarray, fraction: float, *, of: str
) -> tuple[Interval | None, NoInterval | None]:
    """Of a stratified sample of a book, one piece a stratum: second differences (Wolter 2007, 8.2).

    One piece a stratum leaves no variance within it, so neighbouring strata stand for one another: a piece
    less the mean of its neighbours holds the pieces' variance, and how far the strata differ from a straight
    line, which errs to the safe side. Each end is moved out by the sample's skewness on its side.
    """
    n = len(sums)
    if n < FEWEST_PIECES:
        reason = f"the held-out part is {plural(n, 'piece')} of the book, under {FEWEST_PIECES}"
        return None, NoInterval("few_pieces", reason, HOLD_OUT_MORE)
    ratio, residuals = _residuals(sums, counts)
    bends = np.diff(residuals, 2)
    m = n - 2
    variance = (1 - fraction) * n / (6 * m) * float(bends @ bends)
    # Second differences share pieces: those next to each other correlate by -2/3, the next ones by 1/6.
    degrees = m * m / (m + 8 / 9 * (m - 1) + (m - 2) / 18)
    error, quantile, skew = math.sqrt(variance), t_quantile(degrees), skewness_of(residuals)
    low = ratio - error * (quantile + lean_of(max(0.0, -skew)))
    high = ratio + error * (quantile + lean_of(max(0.0, skew)))
    caution = _outlier(residuals, "piece") or (
        f"{n} pieces can miss a short passage that is very unlike the rest: then the interval is too "
        "narrow (in tests with such texts it was right 80 to 93 times in 100, not 95)"
    )
    return Interval(low, high, of, n, "second differences of strata", degrees, caution), None


def _of_documents(sums: np.ndarray, counts: np.ndarray) -> tuple[Interval | None, NoInterval | None]:
    """Of documents as clusters: a cluster-robust variance that is corrected for leverage (CR2).

    Bell & McCaffrey (2002), with two differences. What is taken to be known of the documents' variances, for
    the correction only, is not that all are equal: each is a document's own level and noise that falls with
    its size, in the shares that fit the text. And where a few large documents carry most of the variance,
    its distribution is a weighted sum of chi-squares; their quantile is taken, which for equal weights is
    t's, as t with Satterthwaite's degrees of freedom is too wide (99 % where 95 is said).
    """
    n = len(sums)
    effective = float(counts.sum() ** 2 / (counts @ counts)) if n else 0.0
    if effective < FEWEST_DOCUMENTS - 1e-9:
        alike = "" if n < FEWEST_DOCUMENTS else f" of unequal size count as {effective:.1f} equal ones"
        reason = f"{plural(n, 'document')}{alike}, under {FEWEST_DOCUMENTS}"
        more = f"give {FEWEST_DOCUMENTS} or more documents of similar size"
        return None, NoInterval("few_documents", reason, more)
    ratio, residuals = _residuals(sums, counts)
    method = "cluster-robust variance, CR2"
    if not residuals.any():
        return Interval(ratio, ratio, "documents", n, method, n - 1.0), None
    model = variances_of(sums / counts, counts)
    shares = counts / counts.sum()
    robust = cluster_robust(residuals, shares, model)
    quantile = robust.quantile
    skew, all_alike = skewness_of(robust.corrected), skew_by_model(sums / counts, shares, model)
    least = SKEWED / math.sqrt(effective)
    up, down = (max(least, sign * skew, sign * (skew + all_alike) / 2) for sign in (1, -1))
    error = math.sqrt(robust.variance)
    low, high = ratio - error * (quantile + lean_of(down)), ratio + error * (quantile + lean_of(up))
    caution = _outlier(residuals, "document")
    if not caution and effective <= FEW_EFFECTIVE:
        caution = (
            f"{n} documents that count as {effective:.0f} equal ones may lack the rare outliers and the very "
            "large ones of their kind; where these decide the number, it holds in fewer than 95 of 100 cases"
        )
    return Interval(low, high, "documents", n, method, robust.degrees, caution), None


def _outlier(residuals: np.ndarray, unit: str) -> str:
    """A caution where the largest unit carries half of the squared distances of up to FEW."""
    squares = residuals**2
    if len(squares) > FEW or not squares.any() or squares.max() < 0.5 * squares.sum():
        return ""
    return (
        f"one {unit} of {len(squares)} carries {squares.max() / squares.sum():.0%} of the spread: where such "
        "outliers are rare, the interval holds in 55 to 93 of 100 cases"
    )


def _of_pages(sums: np.ndarray, counts: np.ndarray) -> tuple[Interval | None, NoInterval | None]:
    """Of consecutive blocks of one text: equal-weighted cosines (Lazarus, Lewis, Stock & Watson 2018).

    The long-run variance is the mean power of the few slowest waves: what varies more slowly than blocks do.
    """
    n = len(sums)
    if n < FEWEST_BLOCKS:
        reason = f"{plural(n, 'block')} of text, under {FEWEST_BLOCKS}"
        return None, NoInterval("few_blocks", reason, "a longer text has one")
    ratio, residuals = _residuals(sums, counts)
    waves = min(4, max(2, n // 75))  # few: texts change slowly, and more waves would not see it
    places = (np.arange(n) + 0.5) / n
    powers = [2 * float(residuals @ np.cos(math.pi * wave * places)) ** 2 for wave in range(1, waves + 1)]
    half = t_quantile(waves) * math.sqrt(SLOW * sum(powers) / waves)
    caution = "real texts change slowly; where they do, it holds in 75 to 92 of 100 cases"
    method = f"{waves} equal-weighted cosines"
    return Interval(ratio - half, ratio + half, "pages", n, method, float(waves), caution), None
