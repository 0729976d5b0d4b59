from __future__ import annotations

import pytest
from scipy.stats import t

from famseg.flatness._measurement._quantile import t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 127, 1000])
@pytest.mark.parametrize("p", [0.5, 0.6, 0.9, 0.975, 0.9995])
def test_is_scipy_s(p, freedom):
    assert t_quantile(p, freedom) == pytest.approx(t.ppf(p, freedom), rel=1e-7, abs=1e-9)
