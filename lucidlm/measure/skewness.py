"""Skewness of a mean: errors come in, their skewness and what it adds to an end of an interval go out."""

import math

import numpy as np

NORMAL = 1.959964
"""The normal distribution's quantile for 95 %."""


def skewness_of(errors: np.ndarray) -> float:
    """Skewness of the sum of independent errors (n,)."""
    squares = float(errors @ errors)
    return float((errors * errors) @ errors) / squares**1.5 if squares else 0.0


def skew_by_model(means: np.ndarray, shares: np.ndarray, model: np.ndarray) -> float:
    """Skewness of the weighted mean if all documents' errors, in units of `model`, are skewed alike.

    Small documents tell as much of that as large ones: an outlier among them could have been large.
    """
    mean = float((means / model).sum() / (1 / model).sum())
    scaled = (means - mean) / np.sqrt(model)
    return skewness_of(scaled) * math.sqrt(len(means)) * skewness_of(shares * np.sqrt(model))


def lean_of(skew: float) -> float:
    """What an end is moved out for skewness on its side, in standard errors.

    The inverse of Hall's (1992) transformation of t to second order: the cubic itself has a pole at 0.5.
    """
    z = NORMAL
    return skew * (1 / 6 + z**2 / 3) + skew**2 * (z / 9 + 5 * z**3 / 27)
