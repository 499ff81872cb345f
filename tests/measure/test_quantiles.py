import pytest
from scipy import stats

from lucidlm.measure.quantiles import t_quantile


@pytest.mark.parametrize("degrees", [1, 1.3, 2, 4.5, 30, 1000, 1e5])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_t_quantiles_are_scipys(degrees, level):
    assert t_quantile(degrees, level) == pytest.approx(stats.t.ppf((1 + level) / 2, degrees), rel=1e-6)
