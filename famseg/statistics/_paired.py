"""Paired tests of two methods on the same cases, in which a failed case counts as a failure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from famseg.statistics._intervals import (
    Failed,
    Floats,
    Generator,
    batch_of,
    with_failures,
)

Alternative = Literal["two-sided", "less", "greater"]

# Differences equal to this many digits of the largest score are ties, such as 0.9 - 0.8 and 0.8 -
# 0.7.
_DIGITS = 12
# Maximum number of decimals, since numpy multiplies by 10 to that power, which must be finite.
_MOST_DECIMALS = 300


@dataclass(frozen=True)
class PairedTest:
    """The result of a paired test.

    Attributes:
        statistic: The test's statistic, see its function.
        p_value: Probability of a statistic at least as extreme where the two do not differ; 1 where
            no pair differs.
        n: Number of pairs, those with failures included.
        failed: Pairs in which the first, the second or both failed.
    """

    statistic: float
    p_value: float
    n: int
    failed: int


@dataclass(frozen=True)
class EffectSize:
    """How large a paired difference is, apart from the number of cases.

    Attributes:
        rank_biserial: Matched-pairs rank-biserial correlation, from -1 to 1: the share of the rank
            sum that favours the first minus the share that favours the second.
        cohens_dz: Mean difference over the standard deviation of the differences (n - 1), in such
            standard deviations; infinite where all differences are the same and not zero, NaN for
            one pair, whose deviation is not known.
    """

    rank_biserial: float
    cohens_dz: float


def wilcoxon(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    failed_first: Failed = None,
    failed_second: Failed = None,
    worst: float | None = None,
    alternative: Alternative = "two-sided",
) -> PairedTest:
    """Test with signed ranks whether two methods differ on the same cases (Wilcoxon 1945).

    If one method failed on a case, the difference is that to the worst score, usually one of the
    largest ranks. If both failed, the difference is zero: it is ranked but counts for neither
    (Pratt 1959). Exact up to 50 pairs without ties and zeros, or up to 13 with them; the normal
    approximation otherwise.

    Args:
        first: Scores of the first method.
        second: Scores of the second method, in the same order of cases.
        failed_first: Which cases the first failed.
        failed_second: Which cases the second failed.
        worst: The value of a failed case; None for its own value.
        alternative: ``greater``: the first scores higher.

    Returns:
        The statistic is the smaller rank sum; that of the positive differences where the
        alternative has a side.

    Raises:
        ValueError: As ``with_failures``, or if the numbers of cases differ.

    Example:
        >>> wilcoxon([5, 6, 7, 8, 9], [4, 4, 4, 4, 4]).p_value  # all five favour it: 2 / 2^5
        0.0625
    """
    from scipy import stats

    differences, lost = paired_differences(first, second, failed_first, failed_second, worst)
    statistic, p_value = 0.0, 1.0
    if differences.any():
        with np.errstate(all="ignore"):
            found = stats.wilcoxon(differences, zero_method="pratt", alternative=alternative)
        statistic, p_value = float(found.statistic), float(found.pvalue)
    return PairedTest(statistic, p_value, len(differences), int(lost.sum()))


def permutation_test(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    failed_first: Failed = None,
    failed_second: Failed = None,
    worst: float | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = 9999,
    generator: Generator = 0,
) -> PairedTest:
    """Test whether the mean difference of two methods on the same cases is zero.

    Under the hypothesis the two scores of a case may change places: the sign of its difference
    flips. A failed case enters with its worst score, so that one failure weighs as much as the
    distance to it. Exact where ``2^n`` sign patterns are no more than ``resamples``, else random
    with the observed pattern counted in (Phipson and Smyth 2010), so that p is never 0.

    Args:
        first: Scores of the first method.
        second: Scores of the second method, in the same order of cases.
        failed_first: Which cases the first failed.
        failed_second: Which cases the second failed.
        worst: The value of a failed case; None for its own value.
        alternative: ``greater``: the first scores higher.
        resamples: Number of random sign patterns.
        generator: A generator, or the seed of a new one.

    Returns:
        The statistic is the mean difference, first minus second.

    Raises:
        ValueError: As ``with_failures``, or if the numbers of cases differ.

    Example:
        >>> permutation_test([5], [4]).p_value
        1.0
        >>> permutation_test([5, 6, 7], [4, 4, 4]).p_value  # two of eight patterns are as extreme
        0.25
    """
    from scipy import stats

    differences, lost = paired_differences(first, second, failed_first, failed_second, worst)
    if not differences.any():  # every sign pattern gives the observed mean
        return PairedTest(0.0, 1.0, len(differences), int(lost.sum()))
    if len(differences) == 1:  # scipy requires two cases; one has two equally likely patterns
        mean = float(differences[0])
        favoured = mean > 0 if alternative == "greater" else mean < 0
        p_value = 0.5 if favoured and alternative != "two-sided" else 1.0
        return PairedTest(mean, p_value, 1, int(lost.sum()))
    found = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        alternative=alternative,
        n_resamples=resamples,
        batch=batch_of(len(differences)),
        vectorized=True,
        rng=np.random.default_rng(generator),
    )
    return PairedTest(
        float(found.statistic), float(found.pvalue), len(differences), int(lost.sum())
    )


def effect_size(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    failed_first: Failed = None,
    failed_second: Failed = None,
    worst: float | None = None,
) -> EffectSize:
    """Return two effect sizes of a paired difference, first minus second.

    In ranks, with zeros ranked and left out of both sums as in ``wilcoxon``, and in standard
    deviations of the differences (Cohen's d_z; not d, whose deviation is that of the scores). One
    failure is one rank of many to the first, and can be most of the deviation to the second.

    Args:
        first: Scores of the first method.
        second: Scores of the second method, in the same order of cases.
        failed_first: Which cases the first failed.
        failed_second: Which cases the second failed.
        worst: The value of a failed case; None for its own value.

    Raises:
        ValueError: As ``with_failures``, or if the numbers of cases differ.

    Example:
        >>> effect_size([3, 5, 1], [1, 1, 3])  # differences 2, 4 and -2: ranks 1.5 + 3 against 1.5
        EffectSize(rank_biserial=0.5, cohens_dz=0.4364357804719848)
    """
    from scipy import stats

    differences, _ = paired_differences(first, second, failed_first, failed_second, worst)
    alone = len(differences) == 1
    if not differences.any():
        return EffectSize(0.0, math.nan if alone else 0.0)
    ranks = stats.rankdata(np.abs(differences))
    up, down = ranks[differences > 0].sum(), ranks[differences < 0].sum()
    rank_biserial, mean = float((up - down) / (up + down)), float(differences.mean())
    if alone:
        return EffectSize(rank_biserial, math.nan)
    if not np.ptp(differences):  # std would be the rounding error of the mean
        return EffectSize(rank_biserial, math.copysign(math.inf, mean))
    return EffectSize(rank_biserial, mean / float(differences.std(ddof=1)))


def holm(p_values: Sequence[float] | npt.ArrayLike) -> Floats:
    """Return p-values adjusted for several tests by Holm's step-down method (1979).

    It bounds the probability of any false positive, for any dependence between the tests.

    Args:
        p_values: One a test, from 0 to 1.

    Returns:
        Adjusted values in the same order; those below the wanted level are significant together.

    Raises:
        ValueError: If one is not from 0 to 1.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        array([0.03, 0.06, 0.06])
    """
    raw = np.array(p_values, dtype=np.float64)
    if raw.ndim != 1 or not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError(f"p_values must be a list of numbers from 0 to 1, got {raw.tolist()}.")
    order = np.argsort(raw, kind="stable")
    stepped = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def paired_differences(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    failed_first: Failed = None,
    failed_second: Failed = None,
    worst: float | None = None,
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return first minus second of every pair, and the pairs with a failure.

    Differences are rounded to 12 digits of the largest score: what rounding errors leave of equal
    scores would otherwise be ranked like a difference, and n of them of one sign be significant.

    Args:
        first: Scores of the first method.
        second: Scores of the second method, in the same order of cases.
        failed_first: Which cases the first failed.
        failed_second: Which cases the second failed.
        worst: The value of a failed case; None for its own value.

    Returns:
        Finite differences, shape ``(n,)``, and which pairs have a failure.

    Raises:
        ValueError: As ``with_failures``, or if the numbers of cases differ, or a difference is
            beyond the range of float64.

    Example:
        >>> paired_differences([0.9, 0.8], [0.8, 0.7])[0]
        array([0.1, 0.1])
    """
    one, lost_one = with_failures(first, failed_first, worst=worst)
    two, lost_two = with_failures(second, failed_second, worst=worst)
    if len(one) != len(two):
        raise ValueError(
            f"first has {len(one)} cases and second {len(two)}. A paired test needs both values of "
            "each case, in the same order; mark a missing prediction as failed."
        )
    with np.errstate(over="ignore"):
        differences = one - two
    if not np.isfinite(differences).all():
        raise ValueError("the scores are too large to be subtracted. Give them in a larger unit.")
    largest = max(float(np.abs(one).max()), float(np.abs(two).max()))
    if largest > 0:  # rounding zeros to 300 digits gives NaN
        digits = _DIGITS - math.ceil(math.log10(largest))
        if digits <= _MOST_DECIMALS:
            differences = np.round(differences, digits)
    return differences, lost_one | lost_two
