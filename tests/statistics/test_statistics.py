from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from famseg.statistics import (
    bootstrap_interval,
    compare,
    effect_size,
    holm,
    paired_differences,
    permutation_test,
    table_row,
    wilcoxon,
    with_failures,
)

NAN = float("nan")


def test_failed_cases_enter_with_their_worst_value():
    scores, failed = with_failures([0.9, NAN, 0.7], [False, True, False], worst=0.0)
    assert scores.tolist() == [0.9, 0.0, 0.7]
    assert failed.tolist() == [False, True, False]
    kept, _ = with_failures([3.0, 250.0], [False, True])
    assert kept.tolist() == [3.0, 250.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.9, NAN],), r"the score of case 1 is nan\. Mark the case in failed and set worst"),
        (([0.9, NAN], [False, True]), r"the score of case 1 is nan"),
        (([0.9, NAN, 1.0], [False, False, True]), r"the score of case 1 is nan"),
        (([math.inf],), r"the score of case 0 is inf"),
        (([0.9, 0.8], [True]), r"got \(2,\) and \(1,\)"),
        (([],), r"values must have shape \(n,\)"),
        (([[0.9]],), r"got \(1, 1\) and \(1, 1\)"),
    ],
)
def test_cases_cannot_be_dropped(arguments, message):
    with pytest.raises(ValueError, match=message):
        with_failures(*arguments)


def test_a_worst_value_among_the_scores_is_refused():
    with pytest.raises(ValueError, match=r"worst is 0\.5, and scores lie on both sides of it\."):
        with_failures([0.9, 0.1, NAN], [False, False, True], worst=0.5)


def test_one_failure_moves_mean_and_interval():
    good = bootstrap_interval([0.9, 0.91, 0.92, 0.93, 0.94])
    lost = bootstrap_interval([0.9, 0.91, 0.92, 0.93, NAN], [0, 0, 0, 0, 1], worst=0.0)
    assert (good.n, good.failed, lost.n, lost.failed) == (5, 0, 5, 1)
    assert lost.estimate == pytest.approx(0.732)
    assert lost.low < 0.6 < good.low < good.estimate < good.high


def test_an_interval_is_the_same_every_time_and_follows_its_generator():
    values = np.random.default_rng(5).normal(size=12)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    rng = np.random.default_rng(0)
    assert bootstrap_interval(values, generator=rng) == bootstrap_interval(values)
    assert bootstrap_interval(values, generator=rng) != bootstrap_interval(values)


def test_intervals_without_a_spread():
    same = bootstrap_interval([0.5, 0.5, 0.5])
    assert (same.low, same.high) == (0.5, 0.5)
    one = bootstrap_interval([0.5])
    assert math.isnan(one.low)
    assert one.text() == "0.500 (n 1, failed 0)"


def test_a_median_has_an_interval():
    found = bootstrap_interval([1, 2, 3, 4, 100], statistic="median")
    assert found.estimate == 3
    assert 1 <= found.low <= 3 <= found.high <= 100


def test_a_confidence_in_percent_is_refused():
    with pytest.raises(ValueError, match=r"confidence must be between 0 and 1, got 95\. Give 0\.9"):
        bootstrap_interval([1, 2], confidence=95)


@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_intervals_cover_what_they_promise(draw):
    """200 samples of 30 cases: of 95 % intervals about 93 % hold the mean, skewed ones less."""
    rng = np.random.default_rng(2)
    mean = {"normal": 0.0, "exponential": 1.0}[draw]
    hits = 0
    for _ in range(200):
        values = getattr(rng, draw)(size=30)
        found = bootstrap_interval(values, resamples=999, generator=rng)
        hits += found.low <= mean <= found.high
    assert 0.87 <= hits / 200 <= 0.98


def test_a_row_of_a_table():
    row = table_row("dsc", [0.9, 0.92, NAN, 0.88], [0, 0, 1, 0], worst=0.0, digits=2)
    name, mean, up, down, rest = row.split(maxsplit=4)
    assert (name, mean, rest) == ("dsc", "0.68", "(n 4, failed 1)")
    assert up.startswith("+0.2")
    assert down.startswith("-0.")


def test_wilcoxon_by_hand():
    """Differences 1, 2, 3, -4: of 16 sign patterns, 7 have a rank sum of at most 4 below."""
    first, second = np.array([1.0, 2, 3, 0]), np.array([0.0, 0, 0, 4])
    found = wilcoxon(first, second)
    signs = np.array(list(itertools.product([0, 1], repeat=4))) @ [1, 2, 3, 4]
    assert found.statistic == 4
    assert found.p_value == pytest.approx(2 * np.mean(signs <= 4))
    assert wilcoxon(first, second, alternative="greater").p_value == np.mean(signs >= 6)
    assert wilcoxon(second, first).p_value == found.p_value


def test_differences_that_rounding_sets_apart_are_ties():
    """0.9 - 0.8 and 0.8 - 0.7 are the same difference, not two ranks."""
    found = wilcoxon([0.9, 0.8, 0.5], [0.8, 0.7, 0.6])
    assert found.statistic == 2.0  # three ties of rank 2, one of them down


def test_a_pair_that_both_failed_is_ranked_and_speaks_for_neither():
    first, second = [0.9, 0.8, 0.7, NAN], [0.8, 0.6, 0.4, NAN]
    lost = [False, False, False, True]
    found = wilcoxon(first, second, failed_first=lost, failed_second=lost, worst=0.0)
    assert (found.n, found.failed) == (4, 1)
    assert found.p_value == 2 / 2**3


def test_a_failure_of_one_is_its_largest_difference():
    values = np.linspace(0.80, 0.89, 10)
    better = values + 0.01
    honest = permutation_test(better, values)
    assert honest.p_value == pytest.approx(2 / 2**10)
    lost = np.arange(10) == 0
    found = permutation_test(better, values, failed_first=lost, worst=0.0)
    assert found.statistic == pytest.approx((9 * 0.01 - 0.8) / 10)
    assert (found.n, found.failed) == (10, 1)
    assert found.p_value > 0.5
    ranked = wilcoxon(better, values, failed_first=lost, worst=0.0)
    assert honest.p_value < ranked.p_value < found.p_value  # one rank of ten, not most of the mean


def test_permutation_by_hand():
    differences = np.array([3.0, 1, -2])
    signs = np.array(list(itertools.product([1, -1], repeat=3)))
    means = (signs * differences).mean(axis=1)
    found = permutation_test(differences, np.zeros(3))
    assert found.statistic == pytest.approx(2 / 3)
    assert found.p_value == np.mean(np.abs(means) >= 2 / 3 - 1e-12)
    more = permutation_test(differences, np.zeros(3), alternative="greater")
    assert more.p_value == np.mean(means >= 2 / 3 - 1e-12)


def test_a_random_permutation_test_is_near_the_exact_one_and_never_zero():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.3, 1, 12), rng.normal(size=12)
    exact = permutation_test(first, second, resamples=2**12).p_value
    drawn = permutation_test(first, second, resamples=2000).p_value
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 2000))
    assert permutation_test(np.arange(30) + 1, np.zeros(30), resamples=99).p_value == 2 / 100
    assert drawn == permutation_test(first, second, resamples=2000).p_value


@pytest.mark.parametrize("test", [wilcoxon, permutation_test])
def test_tests_reject_as_often_as_they_say(test):
    """No difference, 300 times: at the level 0.05 about 15 rejections."""
    rng = np.random.default_rng(8)
    options = {} if test is wilcoxon else {"resamples": 199, "generator": rng}
    rejected = sum(
        test(rng.normal(size=20), rng.normal(size=20), **options).p_value <= 0.05
        for _ in range(300)
    )
    assert 5 <= rejected <= 28


def test_the_same_scores_do_not_differ():
    values = [0.9, 0.8, 0.7]
    assert wilcoxon(values, values).p_value == 1
    assert permutation_test(values, values).p_value == 1
    size = effect_size(values, values)
    assert (size.rank_biserial, size.cohens_dz) == (0, 0)


@pytest.mark.parametrize("score", [0.0, -0.0, 1e-305, 1.0, 0.3, 250.0, 1e300])
@pytest.mark.parametrize("pairs", [1, 2, 6, 20, 60])
def test_scores_that_are_all_equal_do_not_differ(score, pairs):
    """Among them two methods that are 0 everywhere: the digits of 0 made NaN of the differences."""
    values = [score] * pairs
    found = compare(values, values)
    assert (found.wilcoxon.p_value, found.permutation.p_value) == (1.0, 1.0)
    assert (found.difference.estimate, found.effect.rank_biserial) == (0.0, 0.0)
    assert found.effect.cohens_dz == 0.0 or pairs == 1
    for alternative in ("less", "greater"):
        for test in (wilcoxon, permutation_test):
            assert test(values, values, alternative=alternative).p_value == 1.0


def test_cases_that_both_methods_failed_do_not_differ():
    nothing, lost = [NAN] * 6, [True] * 6
    found = compare(nothing, nothing, failed_first=lost, failed_second=lost, worst=0.0)
    assert (found.wilcoxon.p_value, found.permutation.p_value) == (1.0, 1.0)
    assert (found.failed_first, found.failed_second) == (6, 6)


def test_what_rounding_leaves_of_equal_scores_is_no_difference():
    """0.1 + 0.2 - 0.3 is 5.6e-17, in one direction in each of 20 cases."""
    first, second = [0.1 + 0.2] * 20, [0.3] * 20
    assert first != second
    assert permutation_test(first, second).p_value == wilcoxon(first, second).p_value == 1.0
    assert paired_differences(first, second)[0].tolist() == [0.0] * 20


def test_differences_that_are_all_the_same_have_no_deviation():
    """The deviation of 49 times 0.1 is 1e-17 in floating point, d would be 7e15."""
    second = np.linspace(0.5, 0.8, 49)
    assert effect_size(second + 0.1, second).cohens_dz == math.inf
    assert effect_size(second, second + 0.1).cohens_dz == -math.inf


def test_scores_whose_difference_is_no_number_are_refused():
    with pytest.raises(ValueError, match=r"too large to be subtracted\. Give them in a larger"):
        wilcoxon([1e308, 1.0], [-1e308, 1.0])


def test_pairs_must_match():
    with pytest.raises(ValueError, match=r"first has 2 cases and second 3\. A paired test needs"):
        wilcoxon([1, 2], [1, 2, 3])


def test_effect_sizes_by_hand():
    """Differences 4, 2, -1: ranks 3 + 2 against 1; mean 5/3, deviation sqrt(19/3)."""
    size = effect_size([4, 2, 0], [0, 0, 1])
    assert size.rank_biserial == pytest.approx((5 - 1) / 6)
    assert size.cohens_dz == pytest.approx(5 / 3 / math.sqrt(19 / 3))
    assert effect_size([2, 2], [1, 1]).cohens_dz == math.inf
    for first in (2, 1):  # the deviation of one difference is not known
        assert math.isnan(effect_size([first], [1]).cohens_dz)
    assert effect_size([1, 1], [2, 2]) == effect_size([0, 0], [3, 3])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []
    with pytest.raises(ValueError, match=r"p_values must be a list of numbers from 0 to 1, got"):
        holm([0.1, NAN])


def test_a_comparison_is_made_of_its_parts():
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.9, 0.02, 15), rng.normal(0.88, 0.02, 15)
    lost = np.arange(15) == 4
    found = compare(first, second, failed_second=lost, worst=0.0)
    assert found == compare(first, second, failed_second=lost, worst=0.0)
    assert found.wilcoxon == wilcoxon(first, second, failed_second=lost, worst=0.0)
    assert found.effect == effect_size(first, second, failed_second=lost, worst=0.0)
    assert found.difference.estimate == pytest.approx(found.permutation.statistic)
    assert found.difference.low <= found.difference.estimate <= found.difference.high
    assert (found.failed_first, found.failed_second, found.difference.failed) == (0, 1, 1)
