import math

import numpy as np
import pytest
from scipy import stats

from lucidlm.measure.skewness import lean_of, skew_by_model, skewness_of


def test_skewness_moves_an_end_as_the_inverse_of_halls_transformation_does():
    def ends(skew: float) -> float:
        x = -stats.norm.ppf(0.975)
        return -3 / skew * (np.cbrt(1 + skew * (x - skew / 6)) - 1) + x

    assert lean_of(0.0) == 0
    for skew in (0.001, 0.01):
        assert lean_of(skew) == pytest.approx(ends(skew), rel=0.01)
    assert [lean_of(skew) for skew in (0.1, 0.2, 0.3)] == pytest.approx(
        [ends(s) for s in (0.1, 0.2, 0.3)], rel=0.2
    )


def test_the_skewness_of_a_sum_is_that_of_its_errors():
    errors = np.random.default_rng(0).gamma(1.0, 1.0, 4000) - 1
    assert skewness_of(errors) * math.sqrt(4000) == pytest.approx(stats.skew(errors), abs=0.1)
    # Documents of equal variance and size: by the model it is the same number.
    shares, model = np.full(4000, 1 / 4000), np.ones(4000)
    assert skew_by_model(errors, shares, model) == pytest.approx(
        skewness_of(errors - errors.mean()), rel=1e-9
    )
