import math

import numpy as np
import pytest
from scipy import stats

from lucidlm.measure.intervals import (
    FEWEST_BLOCKS,
    FEWEST_DOCUMENTS,
    FEWEST_PIECES,
    Interval,
    _cluster_robust,
    interval_of_ratio,
    t_quantile,
)

DESIGNS = ("strata", "documents", "pages")
FEWEST = {"strata": FEWEST_PIECES, "documents": FEWEST_DOCUMENTS, "pages": FEWEST_BLOCKS}


def units(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    counts = draw.integers(50, 200, count).astype(float)
    return counts * draw.gamma(4.0, 0.6, count), counts


@pytest.mark.parametrize("degrees", [1, 1.3, 2, 4.5, 30, 1000, 1e5])
@pytest.mark.parametrize("level", [0.9, 0.975, 0.995])
def test_t_quantiles_are_scipys(degrees, level):
    assert t_quantile(degrees, level) == pytest.approx(stats.t.ppf(level, degrees), rel=1e-6)


@pytest.mark.parametrize("design", DESIGNS)
def test_too_few_units_have_no_interval_and_a_reason(design):
    for count in range(FEWEST[design]):
        interval, why = interval_of_ratio(np.ones(count), np.ones(count), design=design)
        assert interval is None
        assert f"under {FEWEST[design]}" in why
    interval, why = interval_of_ratio(np.ones(FEWEST[design]), np.ones(FEWEST[design]), design=design)
    assert interval.units == FEWEST[design]
    assert why == ""


def test_one_large_document_is_not_many_and_a_reason_says_so():
    counts = np.array([60_000.0] + [300.0] * 29)
    interval, why = interval_of_ratio(2.0 * counts, counts, design="documents")
    assert interval is None
    assert "30 documents of unequal size count as 1.3" in why


@pytest.mark.parametrize("design", DESIGNS)
def test_it_scales_with_the_unit_shifts_with_the_mean_and_mirrors(design):
    sums, counts = units(33)

    def ends(sums: np.ndarray) -> tuple[float, float]:
        found, _ = interval_of_ratio(sums, counts, design=design)
        return found.low, found.high

    low, high = ends(sums)
    assert low < sums.sum() / counts.sum() < high
    assert ends(sums / math.log(2)) == pytest.approx((low / math.log(2), high / math.log(2)))
    assert ends(sums + 7 * counts) == pytest.approx((low + 7, high + 7))
    assert ends(-sums) == pytest.approx((-high, -low))


@pytest.mark.parametrize("design", DESIGNS)
def test_units_that_are_all_alike_leave_no_doubt(design):
    counts = np.array([3.0, 5.0, 9.0] * 10)
    found, _ = interval_of_ratio(2.7 * counts, counts, design=design)
    assert (found.low, found.high) == pytest.approx((2.7, 2.7), abs=1e-12)
    assert found.low == found.high


@pytest.mark.parametrize("design", DESIGNS)
def test_a_unit_of_which_nothing_was_scored_is_none(design):
    sums, counts = units(30)
    with_nothing = (np.insert(sums, 4, 0.0), np.insert(counts, 4, 0.0))
    assert interval_of_ratio(*with_nothing, design=design) == interval_of_ratio(sums, counts, design=design)


def test_a_sum_is_studentised_by_cr2_and_bell_mccaffrey_with_explicit_matrices():
    """Least squares with weights c: A = (I - H) V (I - H)' etc., as Bell & McCaffrey (2002) write it."""
    draw = np.random.default_rng(5)
    n = 14
    counts = np.ceil(draw.lognormal(4.0, 1.0, n))
    values = draw.normal(3.0, 0.3, n)
    model = draw.uniform(0.5, 2.0, n)
    shares = counts / counts.sum()
    maker = np.eye(n) - np.ones((n, 1)) @ shares[None, :]  # values -> distances from the weighted mean
    distances = maker @ values
    covariance = maker @ np.diag(model) @ maker.T
    adjusted = [distances[i] * math.sqrt(model[i] / covariance[i, i]) for i in range(n)]
    expected = math.fsum((shares[i] * adjusted[i]) ** 2 for i in range(n))
    form = np.diag([shares[i] ** 2 * model[i] / covariance[i, i] for i in range(n)]) @ covariance
    degrees = np.trace(form) ** 2 / np.trace(form @ form)
    variance, found = _cluster_robust(shares * distances, shares, model)
    assert variance == pytest.approx(expected, rel=1e-10)
    assert found == pytest.approx(degrees, rel=1e-10)


def test_equal_documents_have_the_t_interval_of_their_means():
    values = np.random.default_rng(3).normal(3.0, 1.0, 40)
    found, _ = interval_of_ratio(values * 64, np.full(40, 64.0), design="documents")
    assert (found.low, found.high) == pytest.approx(
        stats.t.interval(0.95, 39, values.mean(), stats.sem(values)), rel=1e-9
    )


def test_pages_have_the_interval_of_a_loop_over_cosines():
    sums, counts = units(50, seed=2)
    found, _ = interval_of_ratio(sums, counts, design="pages")
    ratio, n, waves = sums.sum() / counts.sum(), 50, round(found.degrees)
    powers = []
    for wave in range(1, waves + 1):
        power = 0.0
        for i in range(n):
            moved = n * (sums[i] - ratio * counts[i]) / counts.sum()
            power += math.sqrt(2 / n) * moved * math.cos(math.pi * wave * (i + 0.5) / n)
        powers.append(power**2)
    half = stats.t.ppf(0.975, waves) * math.sqrt(sum(powers) / waves / n)
    assert (found.low, found.high) == pytest.approx((ratio - half, ratio + half), rel=1e-9)


def test_strata_have_the_interval_of_a_textbook_loop():
    sums, counts = units(21, seed=3)
    found, _ = interval_of_ratio(sums, counts, design="strata")
    ratio, n = sums.sum() / counts.sum(), 21
    squares = 0.0
    for i in range(n - 1):
        here = (sums[i] - ratio * counts[i]) / (counts.sum() / n)
        there = (sums[i + 1] - ratio * counts[i + 1]) / (counts.sum() / n)
        squares += (here - there) ** 2
    error = math.sqrt(squares / (2 * n * (n - 1)))
    half = stats.t.ppf(0.975, found.degrees) * error
    assert (found.low, found.high) == pytest.approx((ratio - half, ratio + half), rel=1e-9)


def test_successive_differences_have_the_degrees_of_freedom_of_their_quadratic_form():
    n = 21
    steps = np.diff(np.eye(n), axis=0)
    form = steps.T @ steps
    found, _ = interval_of_ratio(*units(n), design="strata")
    assert found.degrees == pytest.approx(np.trace(form) ** 2 / np.trace(form @ form), rel=1e-9)


def test_strata_see_neighbours_only_so_that_a_trend_costs_nothing():
    trend = np.linspace(1.0, 5.0, 30) + 0.05 * np.random.default_rng(0).normal(size=30)
    strata, _ = interval_of_ratio(100 * trend, np.full(30, 100.0), design="strata")
    documents, _ = interval_of_ratio(100 * trend, np.full(30, 100.0), design="documents")
    assert strata.high - strata.low < 0.2 * (documents.high - documents.low)


def test_each_says_what_it_is_of():
    clauses = {design: interval_of_ratio(*units(40), design=design)[0].clause for design in DESIGNS}
    assert clauses == {
        "strata": "of this book",
        "documents": "of documents like these",
        "pages": "of pages like these, approximate",
    }


def test_it_is_shown_with_both_ends():
    assert str(Interval(1.23456, 1234.5, "book", 30, "", 20.0)) == "1.2346 to 1,234.5000"


def test_a_hundred_thousand_documents_cost_nothing():
    sums, counts = units(100_000)
    found, _ = interval_of_ratio(sums, counts, design="documents")
    residuals = sums - sums.sum() / counts.sum() * counts
    error = math.sqrt(len(sums)) * residuals.std() / counts.sum()
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.02)
