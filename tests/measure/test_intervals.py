import importlib.util
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lucidlm.measure.intervals import FEWEST_BLOCKS, MOST_BLOCKS, Interval, interval_of_ratio

COVERAGE = Path(__file__).parents[2] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def simulation():
    """benchmarks/coverage.py as a module."""
    spec = importlib.util.spec_from_file_location("coverage_simulation", COVERAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    counts = draw.integers(50, 200, count).astype(float)
    return counts * draw.gamma(4.0, 0.6, count), counts


@pytest.mark.parametrize("count", range(FEWEST_BLOCKS))
def test_under_ten_blocks_there_is_none(count):
    assert interval_of_ratio(np.ones(count), np.ones(count)) is None


def test_ten_blocks_have_one():
    assert interval_of_ratio(*blocks(FEWEST_BLOCKS)).blocks == FEWEST_BLOCKS


def test_it_holds_the_estimate_and_says_from_how_many_blocks():
    for seed in range(30):
        sums, counts = blocks(40, seed=seed)
        found = interval_of_ratio(sums, counts)
        assert found.low < sums.sum() / counts.sum() < found.high
        assert FEWEST_BLOCKS <= found.blocks <= 40


def test_the_same_blocks_have_the_same_interval():
    one = interval_of_ratio(*blocks(25))
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    assert interval_of_ratio(*blocks(25)) == one
    assert np.array_equal(np.random.get_state()[1], before)


def test_blocks_that_are_all_alike_leave_no_doubt():
    counts = np.array([3.0, 5.0, 9.0] * 7)
    assert interval_of_ratio(2.5 * counts, counts) == Interval(2.5, 2.5, 21)
    assert interval_of_ratio(np.zeros(12), np.ones(12)) == Interval(0.0, 0.0, 12)


def test_it_scales_with_the_unit_and_shifts_with_the_mean():
    sums, counts = blocks(33)
    one = interval_of_ratio(sums, counts)
    halved = interval_of_ratio(sums / math.log(2), counts)
    assert (halved.low, halved.high) == pytest.approx((one.low / math.log(2), one.high / math.log(2)))
    shifted = interval_of_ratio(sums + 7 * counts, counts)
    assert (shifted.low, shifted.high) == pytest.approx((one.low + 7, one.high + 7))
    # A difference may lie under 0, and its interval is the mirror's mirror up to the skew of the draws.
    mirrored = interval_of_ratio(-sums, counts)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((one.low, one.high), rel=1e-6)


def test_for_many_equal_and_normal_blocks_it_is_the_t_interval():
    # 400 blocks: 2,000 resamples place a 2.5 % quantile to about 0.1 of its standard error.
    draw = np.random.default_rng(3)
    values = draw.normal(3.0, 1.0, 400)
    found = interval_of_ratio(values * 64, np.full(400, 64.0))
    low, high = stats.t.interval(0.95, found.blocks - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_for_many_blocks_of_unequal_size_it_is_the_jackknifes():
    draw = np.random.default_rng(4)
    counts = np.ceil(np.exp(draw.normal(5.0, 0.7, 600)))
    sums = counts * draw.normal(3.0, 0.4, 600)
    found = interval_of_ratio(sums, counts)
    without = (sums.sum() - sums) / (counts.sum() - counts)
    error = math.sqrt(599 / 600 * ((without - without.mean()) ** 2).sum())
    expected = stats.t.interval(0.95, 599, sums.sum() / counts.sum(), error)
    # As above: 2,000 resamples place each end to about a tenth of a standard error.
    assert (found.low, found.high) == pytest.approx(expected, abs=0.3 * error)


def test_large_blocks_weigh_more_than_small_ones():
    counts = np.array([1000.0] * 10 + [1.0] * 10)
    sums = counts * np.array([2.0, 2.2] * 5 + [9.0, 0.1] * 5)
    found = interval_of_ratio(sums, counts)
    assert 1.9 < found.low < 2.1 < found.high < 2.3


def test_the_skew_of_losses_pushes_it_upwards():
    draw = np.random.default_rng(0)
    above = []
    for _ in range(40):
        values = draw.lognormal(0.0, 1.0, 30)
        found = interval_of_ratio(values, np.ones(30))
        above.append((found.high - values.mean()) > (values.mean() - found.low))
    assert np.mean(above) > 0.8


def test_four_times_the_blocks_make_it_half_as_wide():
    widths = []
    for count in (100, 400):
        found = [interval_of_ratio(*blocks(count, seed=seed)) for seed in range(20)]
        widths.append(np.mean([each.high - each.low for each in found]))
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.15)


def test_very_many_blocks_are_joined_and_the_interval_stays():
    sums, counts = blocks(20_000)
    found = interval_of_ratio(sums, counts)
    assert found.blocks <= MOST_BLOCKS
    residuals = sums - sums.sum() / counts.sum() * counts
    error = math.sqrt(len(sums)) * residuals.std() / counts.sum()
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_a_million_blocks_take_little_memory():
    sums, counts = blocks(1_000_000)
    tracemalloc.start()
    found = interval_of_ratio(sums, counts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.blocks <= MOST_BLOCKS
    assert peak < 100 * 2**20  # drawing of all of them would take 15 GiB


def test_neighbours_that_go_together_are_joined_and_the_interval_is_wider_for_it():
    draw = np.random.default_rng(1)
    values = np.repeat(draw.gamma(4.0, 0.6, 20), 8)  # eight blocks of each: only 20 are news
    shuffled = draw.permutation(values)
    together, apart = (interval_of_ratio(each, np.ones(160)) for each in (values, shuffled))
    assert together.blocks <= 40
    assert apart.blocks >= 80
    assert together.high - together.low > 2 * (apart.high - apart.low)


@pytest.mark.parametrize("count", [10, 30, 100])
@pytest.mark.parametrize("spread", [0.0, 1e-4, 0.02])
def test_one_block_unlike_the_others_does_not_blow_it_up(count, spread):
    values = 3.0 + spread * np.random.default_rng(1).normal(size=count)
    values[count // 2] += 3.0
    found = interval_of_ratio(256 * values, np.full(count, 256.0))
    # The exact binomial interval of one such block in `count` ends within 5 standard errors: twice that.
    assert values.mean() - 10 * stats.sem(values) < found.low
    assert found.high < values.mean() + 10 * stats.sem(values)


def test_it_is_shown_with_both_ends():
    assert str(Interval(1.23456, 1234.5, 30)) == "1.2346 to 1,234.5000"


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_simulated_losses_are_exponential_with_the_stated_mean_and_go_together_as_stated(
    simulation, correlation
):
    drawn = simulation.losses(np.random.default_rng(0), 400, correlation)
    values = drawn.ravel()
    assert drawn.shape == (400, simulation.BLOCK_TOKENS)
    # rho 0.9 leaves some 5,000 of 102,400 draws independent: 1.4 % a sigma of the mean.
    assert values.mean() == pytest.approx(simulation.MEAN, rel=0.05)
    for share in (0.1, 0.5, 0.9, 0.99):
        expected = stats.expon.ppf(share, scale=simulation.MEAN)
        assert np.quantile(values, share) == pytest.approx(expected, rel=0.1)
    normal = stats.norm.ppf(stats.expon.cdf(values, scale=simulation.MEAN))
    for distance in (1, 2):
        found = np.corrcoef(normal[:-distance], normal[distance:])[0, 1]
        assert found == pytest.approx(correlation**distance, abs=0.03)
    across = np.corrcoef(drawn[:-1, -1], drawn[1:, 0])[0, 1]  # a block goes on where the last one ended
    assert across == pytest.approx(correlation, abs=0.2)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_a_few_hundred_simulated_texts_are_covered(simulation, correlation):
    # 150 draws at 95 %: three sigmas are 5.3 %.
    held, _ = simulation.coverage(150, 30, correlation)
    assert 0.897 <= held <= 1.0


@pytest.mark.torture
@pytest.mark.parametrize("blocks", [10, 30, 100])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_a_thousand_simulated_texts_are_covered_93_to_97_percent(simulation, blocks, correlation):
    held, width = simulation.coverage(1000, blocks, correlation)
    print(f"{blocks} blocks, rho {correlation}: {held:.1%}, mean width {width:.3f}")
    if blocks >= 30:
        # One sigma of a thousand draws at 95 % is 0.7 %.
        assert 0.93 - 0.007 <= held <= 0.97 + 0.007
