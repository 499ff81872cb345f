"""The variance of a mean over documents of unequal size: residuals and sizes in, CR2 and its quantile out.

Bell & McCaffrey (2002); `intervals.py` says where it differs from theirs, and why.
"""

import math
from dataclasses import dataclass

import numpy as np

from lucidlm.measure.quantiles import LEVEL, exceeding, root_of

LARGEST = 24
"""Documents, those that count most, whose weights in the variance are kept apart."""
NOISE = 1 - np.array([0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 0.99, 0.997, 1])
"""Shares of the variance of documents that may be noise: what falls with a document's size."""


def variances_of(means: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How the variances of documents' means compare (n,): a level of its own each, and noise / size.

    The share of noise is that of NOISE with the largest restricted likelihood (Harville 1977).
    """
    n, best, found = len(means), -math.inf, np.ones(len(means))
    noise = counts.mean() / counts
    for share in NOISE:
        model = (1 - share) + share * noise
        precise = 1 / model
        mean = float(means @ precise / precise.sum())
        squares = float((means - mean) ** 2 @ precise)
        # squares > 0, as the means differ; constants are left out.
        likelihood = -((n - 1) * math.log(squares) + np.log(model).sum() + math.log(precise.sum()))
        if likelihood > best:
            best, found = likelihood, model
    return found


@dataclass(frozen=True, slots=True)
class Robust:
    """A cluster-robust variance and what is known of its distribution."""

    variance: float
    degrees: float
    """Satterthwaite's: those of the chi-square with the same mean and variance."""
    roots: np.ndarray
    """(K + 1, K + 1) Root of the covariance of the mean's error, first, and the K largest terms of the
    variance, in units of the mean's."""
    rest: float
    """What all other terms add to the variance in the mean, as a share, and their degrees of freedom."""
    rest_degrees: float
    corrected: np.ndarray
    """(n,) Residuals that are as large as the errors of documents, leverage taken out."""

    @property
    def quantile(self) -> float:
        """What |error of the mean| / sqrt(variance) stays under with probability LEVEL if errors are normal.

        |error| > q sqrt(variance) where a quadratic form of them is over 0: one weight is above 0, that of
        the error, all others below. The error of a large document is in both, so they go together, which t
        with its degrees of freedom does not know.
        """

        def beyond(q: float) -> float:
            signs = np.full(len(self.roots), -q * q)
            signs[0] = 1.0
            values = np.linalg.eigvalsh(self.roots * signs @ self.roots)
            weights = np.append(-values[:-1].clip(max=0), q * q * self.rest / self.rest_degrees) / values[-1]
            return exceeding(weights, np.append(np.ones(len(values) - 1), self.rest_degrees))

        return root_of(beyond, 1 - LEVEL)


def cluster_robust(residuals: np.ndarray, shares: np.ndarray, model: np.ndarray) -> Robust:
    """The variance of a mean weighted by `shares` (n,), if documents vary as `model` (n,), up to a factor.

    residuals (n,): shares * (mean of each - weighted mean). The mean's own error is in each of them, mostly
    in that of a large document, so that squares are too small; what they are under `model` is known, and
    each is corrected by it. All pairs of residuals in closed form: O(n), so 100,000 documents cost nothing.
    """
    parts = shares * model
    whole = float(shares @ parts)  # variance of the weighted mean
    expected = model - 2 * parts + whole  # variance of each distance from it
    factors = shares**2 * model / expected
    corrected = residuals * np.sqrt(model / expected)
    # Satterthwaite: 2 E^2 / Var of sum a e^2; covariance of distances i != j: whole - parts_i - parts_j.
    zero, one, two = (float(factors @ parts**power) for power in (0, 1, 2))
    pairs = whole**2 * zero**2 + 2 * zero * two + 2 * one**2 - 4 * whole * zero * one
    same = float(factors**2 @ (expected**2 - (whole - 2 * parts) ** 2))
    degrees = whole**2 / (pairs + same)
    top = np.argsort(-factors * expected, kind="stable")[:LARGEST]
    scales = np.append(1.0, np.sqrt(factors[top]))
    covariance = np.empty((len(top) + 1, len(top) + 1))
    covariance[0, 0] = whole
    covariance[0, 1:] = covariance[1:, 0] = parts[top] - whole
    covariance[1:, 1:] = whole - parts[top][:, None] - parts[top]
    covariance[1:, 1:][np.diag_indices(len(top))] = expected[top]
    values, vectors = np.linalg.eigh(scales[:, None] * covariance * scales / whole)
    roots = vectors * np.sqrt(values.clip(0)) @ vectors.T
    # All terms together have mean 1 and variance 2 / degrees.
    inside = (scales[:, None] * covariance * scales / whole)[1:, 1:]
    rest = max(0.0, 1 - float(np.trace(inside))) if len(residuals) > LARGEST else 0.0
    squares = max(1 / degrees - float((inside**2).sum()), rest**2 / len(residuals))
    rest_degrees = rest**2 / squares if rest > 1e-9 else 1.0
    return Robust(float(corrected @ corrected), degrees, roots, rest, rest_degrees, corrected)
