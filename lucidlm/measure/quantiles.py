"""Quantiles of a normal variable over the root of a sum of chi-squares: weights and degrees in, a number out.

With one weight it is Student's t; with several, that of a variance that few large documents decide.
"""

import math
from collections.abc import Callable

import numpy as np

LEVEL = 0.95


_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(48)
_SQUARED_SINES = np.sin((_NODES + 1) * math.pi / 4) ** 2


def t_quantile(degrees: float, level: float = LEVEL) -> float:
    """What |t| with these degrees of freedom stays under with probability `level`; from 1 on, to 6 digits."""
    many = np.array([float(degrees)])
    return root_of(lambda q: exceeding(q * q / many, many), 1 - level)


def exceeding(weights: np.ndarray, degrees: np.ndarray) -> float:
    """P(z^2 > sum of chi-squares (k,) with these weights and degrees of freedom), z normal.

    P(|z| > sqrt(v)) is 2/pi times the integral over (0, pi/2) of E exp(-v / 2 sin^2) (Craig 1991), and that
    mean is a product of (1 + weight / sin^2)^(-degrees / 2).
    """
    logs = degrees[:, None] * np.log1p(weights[:, None] / _SQUARED_SINES)
    return float(_NODE_WEIGHTS @ np.exp(-0.5 * logs.sum(0))) / 2


def root_of(falling: Callable[[float], float], target: float) -> float:
    """Where a function that falls from 1 at 0 to 0 is `target`, to 1e-9: false position in logarithms."""
    low, high = 1.0, 2.0
    while falling(low) <= target:
        low /= 2
    while falling(high) > target:
        low, high = high, 2 * high
    left, right = (math.log(falling(end) / target) for end in (low, high))
    while high - low > 1e-9 * high:
        middle = min(max(low + (high - low) * left / (left - right), low + 1e-10 * high), high - 1e-10 * high)
        value = math.log(falling(middle) / target)
        if value > 0:
            low, left, right = middle, value, right / 2  # halved: an end that stays must not hold it up
        else:
            high, right, left = middle, value, left / 2
        if abs(value) < 1e-10:
            return middle
    return (low + high) / 2
