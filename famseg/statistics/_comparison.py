"""Two methods on the same cases: intervals, tests and effect size of their difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from famseg.statistics._intervals import (
    Failed,
    Generator,
    Interval,
    bootstrap_interval,
    with_failures,
)
from famseg.statistics._paired import (
    EffectSize,
    PairedTest,
    effect_size,
    paired_differences,
    permutation_test,
    wilcoxon,
)


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same cases.

    Attributes:
        difference: Mean of first minus second with its interval; ``failed`` counts pairs with a
            failure.
        wilcoxon: Signed-rank test.
        permutation: Permutation test of the mean difference.
        effect: Effect sizes.
        failed_first: Failed cases of the first.
        failed_second: Failed cases of the second.
    """

    difference: Interval
    wilcoxon: PairedTest
    permutation: PairedTest
    effect: EffectSize
    failed_first: int
    failed_second: int


def compare(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    failed_first: Failed = None,
    failed_second: Failed = None,
    worst: float | None = None,
    confidence: float = 0.95,
    generator: Generator = 0,
) -> Comparison:
    """Compare two methods on the same cases: interval, both tests, both effect sizes.

    Args:
        first: Scores of the first method.
        second: Scores of the second method, in the same order of cases.
        failed_first: Which cases the first failed.
        failed_second: Which cases the second failed.
        worst: The value of a failed case; None for its own value.
        confidence: Level of the interval.
        generator: A generator, or the seed of a new one.

    Raises:
        ValueError: As ``with_failures``, or if the numbers of cases differ.
    """
    rng = np.random.default_rng(generator)
    differences, lost = paired_differences(first, second, failed_first, failed_second, worst)
    halves = [
        with_failures(values, failed, worst=worst)
        for values, failed in ((first, failed_first), (second, failed_second))
    ]
    (one, lost_one), (two, lost_two) = halves
    return Comparison(
        difference=bootstrap_interval(differences, lost, confidence=confidence, generator=rng),
        wilcoxon=wilcoxon(one, two, failed_first=lost_one, failed_second=lost_two),
        permutation=permutation_test(
            one, two, failed_first=lost_one, failed_second=lost_two, generator=rng
        ),
        effect=effect_size(one, two),
        failed_first=int(lost_one.sum()),
        failed_second=int(lost_two.sum()),
    )
