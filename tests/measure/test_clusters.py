import math

import numpy as np
import pytest
from scipy import stats

from lucidlm.measure.clusters import LARGEST, NOISE, cluster_robust, variances_of


def uneven(n: int, *, seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares, means and variances of documents."""
    draw = np.random.default_rng(seed)
    counts = np.ceil(draw.lognormal(4.0, 1.0, n))
    return counts / counts.sum(), draw.normal(3.0, 0.3, n), draw.uniform(0.5, 2.0, n)


@pytest.mark.parametrize("n", [5, 14, LARGEST + 25])
def test_documents_have_cr2_and_bell_mccaffrey_as_explicit_matrices_give_them(n):
    """Least squares with weights c, as Bell & McCaffrey (2002) write it: n x n matrices and a loop."""
    shares, values, model = uneven(n)
    maker = np.eye(n) - np.ones((n, 1)) @ shares[None, :]  # values -> distances from the weighted mean
    distances = maker @ values
    covariance = maker @ np.diag(model) @ maker.T
    adjusted = [distances[i] * math.sqrt(model[i] / covariance[i, i]) for i in range(n)]
    expected = math.fsum((shares[i] * adjusted[i]) ** 2 for i in range(n))
    form = np.diag([shares[i] ** 2 * model[i] / covariance[i, i] for i in range(n)]) @ covariance
    found = cluster_robust(shares * distances, shares, model)
    assert found.variance == pytest.approx(expected, rel=1e-10)
    assert found.degrees == pytest.approx(np.trace(form) ** 2 / np.trace(form @ form), rel=1e-9)


@pytest.mark.parametrize("n", [7, LARGEST + 25])
def test_the_quantile_is_that_of_draws_with_documents_as_the_model_says(n):
    shares, _, model = uneven(n)
    draw = np.random.default_rng(0)
    errors = np.sqrt(model) * draw.standard_normal((20_000, n))
    means = errors @ shares
    distances = shares * (errors - means[:, None])
    factor = model / (model - 2 * shares * model + shares**2 @ model)
    beyond = np.abs(means) > cluster_robust(distances[0], shares, model).quantile * np.sqrt(
        distances**2 @ factor
    )
    assert beyond.mean() == pytest.approx(0.05, abs=0.005)  # three sigmas of the draws


def test_of_equal_documents_the_quantile_is_students():
    for n in (5, 20, LARGEST, 200):
        equal = cluster_robust(np.ones(n), np.full(n, 1 / n), np.ones(n))
        assert equal.quantile == pytest.approx(stats.t.ppf(0.975, n - 1), rel=1e-5)


def test_the_variance_is_right_in_the_mean_where_documents_vary_as_the_model_says():
    shares, _, model = uneven(12)
    draw = np.random.default_rng(1)
    values = np.sqrt(model) * draw.standard_normal((20_000, 12))
    ratios = values @ shares
    found = [
        cluster_robust(shares * (each - ratio), shares, model).variance
        for each, ratio in zip(values[:4000], ratios, strict=False)
    ]
    assert np.mean(found) == pytest.approx(shares**2 @ model, rel=0.05)


def test_documents_variances_are_those_of_the_largest_restricted_likelihood():
    """By determinants of explicit matrices (Harville 1977), for each share of noise."""
    draw = np.random.default_rng(2)
    n = 25
    counts = np.ceil(draw.lognormal(5.0, 1.0, n))
    means = 3 + draw.normal(0, 0.2, n) + draw.normal(0, 1, n) * 4 / np.sqrt(counts)
    ones, found = np.ones((n, 1)), []
    for share in NOISE:
        matrix = np.diag((1 - share) + share * counts.mean() / counts)
        precise = np.linalg.inv(matrix)
        mean = np.linalg.solve(ones.T @ precise @ ones, ones.T @ precise @ means)
        rest = means - ones @ mean
        scale = rest @ precise @ rest / (n - 1)
        found.append(
            -0.5
            * (np.linalg.slogdet(scale * matrix)[1] + np.linalg.slogdet(ones.T @ precise @ ones / scale)[1])
            - 0.5 * rest @ precise @ rest / scale
        )
    share = NOISE[int(np.argmax(found))]
    assert 0 < share < 1
    assert variances_of(means, counts) == pytest.approx((1 - share) + share * counts.mean() / counts)
