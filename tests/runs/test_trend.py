import numpy as np
import pytest

from lucidlm.runs.trend import level_of, noise_of, trend_of

RUNS, VALIDATIONS = 4000, 11
STEPS = 10 * np.arange(1, VALIDATIONS + 1)


def noisy(curve: np.ndarray, noise: float, *, seed: int = 0) -> np.ndarray:
    """RUNS runs of one true curve, with Gaussian noise relative to it: (R, n)."""
    return curve * (1 + noise * np.random.default_rng(seed).standard_normal((RUNS, len(curve))))


FLAT = np.full(VALIDATIONS, 3.0)


@pytest.mark.parametrize(("noise", "most"), [(0.002, 0.002), (0.003, 0.003), (0.005, 0.01), (0.01, 0.025)])
def test_a_flat_curve_with_noise_neither_rose_nor_jumped(noise, most):
    trend = trend_of(STEPS, noisy(FLAT, noise))
    assert (trend.rose | trend.jumped).mean() <= most


def test_comparing_with_the_luckiest_validation_would_call_most_flat_curves_worse():
    # The simple rule: the last over the best by half a percent.
    losses = noisy(FLAT, 0.005)
    assert (losses[:, -1] > 1.005 * losses.min(1)).mean() > 0.6


@pytest.mark.parametrize("noise", [0.002, 0.003, 0.005, 0.01])
def test_a_flat_curve_with_noise_is_hardly_ever_still_falling(noise):
    assert trend_of(STEPS, noisy(FLAT, noise)).falling.mean() <= 0.06


@pytest.mark.parametrize(("noise", "least"), [(0.001, 0.99), (0.003, 0.9), (0.01, 0.6)])
def test_a_curve_that_falls_by_a_third_of_a_percent_a_validation_is_falling_through_its_noise(noise, least):
    trend = trend_of(STEPS, noisy(3.0 * (1 - 0.003 * np.arange(VALIDATIONS)), noise))
    assert trend.falling.mean() >= least
    assert trend.rose.mean() <= 0.002


@pytest.mark.parametrize(("rise", "noise"), [(0.015, 0.001), (0.02, 0.002), (0.03, 0.003), (0.1, 0.01)])
def test_a_rise_is_seen_where_it_is_several_times_the_noise(rise, noise):
    at = np.arange(VALIDATIONS)
    curve = 3.0 * (1 + 0.5 * np.exp(-1.3 * at) * (at < 3) + rise * np.clip((at - 3) / 7, 0, None))
    assert trend_of(STEPS, noisy(curve, noise)).rose.mean() >= 0.9


def test_a_curve_that_fell_fast_and_is_flat_since_is_not_falling():
    curve = 3.0 * (1 + np.exp(-np.arange(VALIDATIONS)))
    assert trend_of(STEPS, noisy(curve, 0.001)).falling.mean() < 0.02
    assert trend_of(STEPS[:5], noisy(curve[:5], 0.001)).falling.mean() > 0.99


def test_the_noise_of_a_flat_curve_is_found_to_a_fifth_and_the_curve_itself_is_none():
    assert np.median(noise_of(noisy(FLAT, 0.01))) == pytest.approx(0.01, rel=0.2)
    assert noise_of(np.linspace(3.0, 3.3, 30)) < 0.0015  # a straight line: only what is assumed


def test_one_spike_moves_neither_level_nor_rise():
    losses = np.array([3.0, 3.01, 9.0, 3.0, 3.01, 3.0])
    assert level_of(losses) == pytest.approx(3.005)
    assert not trend_of(STEPS[:6], losses).rose


def test_a_last_loss_far_over_the_level_has_jumped():
    losses = np.array([3.5, 3.2, 3.1, 3.05, 3.04, 3.03, 3.02, 3.02, 3.01, 3.01, 4.5])
    trend = trend_of(STEPS, losses)
    assert trend.jumped
    assert not trend.rose
    assert not trend.falling


def test_many_runs_at_once_are_judged_as_each_alone():
    losses = noisy(FLAT, 0.01)[:20]
    together = trend_of(STEPS, losses)
    for row, values in enumerate(losses):
        alone = trend_of(STEPS, values)
        for name in ("best", "level", "noise", "rise", "rose", "jumped", "fall", "falling"):
            np.testing.assert_allclose(getattr(together, name)[row], getattr(alone, name), rtol=1e-12)
