from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from famseg.statistics import detectable_difference, pairs_needed


def test_the_difference_is_shown_as_often_as_the_power_says():
    n, std, rng = 9, 0.02, np.random.default_rng(0)
    difference = detectable_difference(std, n)
    draws = rng.normal(difference, std, (4000, n))
    shown = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert shown == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("difference", "std"), [(0.01, 0.01), (0.003, 0.01), (0.01, 0.2)])
def test_so_many_pairs_show_it_and_one_less_does_not(difference, std):
    n = pairs_needed(difference, std)
    assert detectable_difference(std, n) <= difference < detectable_difference(std, n - 1)


def test_the_known_number_for_an_effect_of_one_half():
    # Cohen 1988, table 2.4.1: 34 pairs for d = 0.5, two-sided 5 %, power 0.8.
    assert pairs_needed(0.5, 1.0) == 34


def test_what_no_number_shows_and_what_makes_no_sense():
    assert pairs_needed(1e-6, 1.0) is None
    assert detectable_difference(0.0, 10) == 0
    with pytest.raises(ValueError, match="difference must be a number other than 0"):
        pairs_needed(0.0, 1.0)
    with pytest.raises(ValueError, match="std must be a number of at least 0"):
        detectable_difference(float("nan"), 8)
    with pytest.raises(ValueError, match="power must be between 0 and 1"):
        detectable_difference(1.0, 8, power=1.0)
