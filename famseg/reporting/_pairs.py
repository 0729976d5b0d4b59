"""Differences to the baseline by pair, with intervals and p values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from famseg.reporting._cases import Scores, read_case_table
from famseg.reporting._groups import Group
from famseg.reporting._runs import Run
from famseg.statistics import (
    bootstrap_interval,
    effect_size,
    holm,
    paired_differences,
    permutation_test,
    wilcoxon,
)

By = Literal["seed", "case"]

CONFIDENCE = 0.95
# Above it, resampling takes gigabytes, and the normal approximation is as good.
_MOST_RESAMPLED = 1000
_SIGN_PATTERNS = 9999


@dataclass(frozen=True)
class Pairing:
    """A paired comparison of a group with the baseline in one metric.

    Attributes:
        metric: Flat name of the metric.
        by: ``seed``: a pair is two runs with the same seed; ``case``: the two scores of one case,
            each averaged over the common seeds.
        seeds: The seeds that both groups have finished.
        n: Number of pairs.
        failed: Number of pairs with a case that failed in a run; its score is the worst possible.
        difference: Mean of group minus baseline.
        low: Lower end of its 95 % interval: Student's t over seeds, bootstrap over cases (normal
            approximation above 1000); None for one pair.
        high: Upper end.
        p_value: Two-sided permutation test of the mean difference (sign flips).
        p_holm: The same with Holm's adjustment for all groups compared with the baseline in this
            metric.
        p_smallest: The smallest possible ``p_value`` with this number of pairs; None for many
            pairs.
        p_wilcoxon: Two-sided signed-rank test.
        cohens_dz: Mean difference divided by the standard deviation of the differences; infinite if
            they are all equal, NaN for one pair.
        rank_biserial: Rank-based effect size, from -1 to 1.
    """

    metric: str
    by: By
    seeds: tuple[int, ...]
    n: int
    failed: int
    difference: float
    low: float | None
    high: float | None
    p_value: float
    p_holm: float
    p_smallest: float | None
    p_wilcoxon: float
    cohens_dz: float
    rank_biserial: float


@dataclass(frozen=True)
class Difference:
    """One pair.

    Attributes:
        pair: The seed, or the parts of the case's name.
        value: Group minus baseline.
        failed: Whether the case failed in a run; its score is the worst possible.
    """

    pair: str
    value: float
    failed: bool = False


@dataclass(frozen=True)
class _Scored:
    """The case table of a run: a hash of the cases, and their values by metric."""

    identity: str | None
    scores: Mapping[str, Scores | None]


class Pairs:
    """The pairs of groups with a baseline; case tables are read only once.

    Args:
        baseline: The group with which the others are compared.
        by: The unit of pairs: the seed or the case.
        metrics: The metrics that will be requested.
    """

    def __init__(self, baseline: Group, by: By, metrics: Sequence[str]) -> None:
        self.baseline = baseline
        self.by = by
        self._metrics = metrics if by == "case" else ()
        self._read: dict[Path, _Scored] = {}

    def fault(self, group: Group) -> str | None:
        """Return why a group cannot be paired with the baseline; None if it can."""
        pairs = self._runs(group)
        if not pairs:
            return "no seed in common"
        cases = [tuple(self._scored(run).identity for run in pair) for pair in pairs]
        if self.by == "case" and any(None in pair for pair in cases):
            return f"a run has no {self.baseline.runs[0].evaluation.name}/cases.csv"
        # Two runs without tables can be paired by seed, but not one with and one without.
        if any(ours != theirs for ours, theirs in cases):
            return "the test cases are not the same"
        if self.by == "case" and len(set(cases)) > 1:
            return "the test cases differ from seed to seed"
        return None

    def pairing(self, group: Group, metric: str) -> Pairing | None:
        """Return the comparison in one metric; None if a run lacks it, or no case has it."""
        pairs = self._runs(group)
        seeds = tuple(run.seed for run, _ in pairs)
        if self.by == "seed":
            if any(metric not in run.metrics for pair in pairs for run in pair):
                return None
            one, two = ([run.metrics[metric] for run in side] for side in zip(*pairs, strict=True))
            return _by_seed(metric, seeds, one, two)
        ours, theirs = (self._means(side, metric) for side in zip(*pairs, strict=True))
        return _by_case(metric, seeds, ours, theirs) if ours and theirs else None

    def differences(self, group: Group, metric: str) -> tuple[Difference, ...]:
        """Return the pairs behind `pairing`, in its order; empty if it is None."""
        pairs = self._runs(group)
        if self.by == "seed":
            if any(metric not in run.metrics for pair in pairs for run in pair):
                return ()
            one, two = ([run.metrics[metric] for run in side] for side in zip(*pairs, strict=True))
            names, failed = [f"seed {run.seed}" for run, _ in pairs], [False] * len(pairs)
        else:
            ours, theirs = (self._means(side, metric) for side in zip(*pairs, strict=True))
            if not ours or not theirs:
                return ()
            cases = sorted(ours)
            one, two = ([side[case][0] for case in cases] for side in (ours, theirs))
            names = ["/".join(case) for case in cases]
            failed = [ours[case][1] or theirs[case][1] for case in cases]
        values = paired_differences(one, two)[0].tolist()
        return tuple(map(Difference, names, values, failed))

    def _runs(self, group: Group) -> list[tuple[Run, Run]]:
        ours, theirs = group.by_seed, self.baseline.by_seed
        return [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]

    def _scored(self, run: Run) -> _Scored:
        if run.path not in self._read:
            cases = read_case_table(run.evaluation / "cases.csv")
            scores = {metric: cases.scores(metric) if cases else None for metric in self._metrics}
            self._read[run.path] = _Scored(cases.identity if cases else None, scores)
        return self._read[run.path]

    def _means(self, runs: Sequence[Run], metric: str) -> Scores | None:
        """Return each case's mean score over runs, and whether it failed in any run."""
        scores = [of_run for run in runs if (of_run := self._scored(run).scores[metric])]
        if len(scores) < len(runs):
            return None
        return {
            case: (
                math.fsum(of_run[case][0] for of_run in scores) / len(scores),
                any(of_run[case][1] for of_run in scores),
            )
            for case in scores[0]
        }


def adjusted(pairings: Sequence[Pairing]) -> list[Pairing]:
    """Return the comparisons in one metric with p values adjusted by Holm's method."""
    values = holm([pairing.p_value for pairing in pairings])
    return [replace(pairing, p_holm=float(p)) for pairing, p in zip(pairings, values, strict=True)]


def student_half(values: Sequence[float]) -> float | None:
    """Return half the width of Student's 95 % interval of a mean; None for one value.

    Example:
        >>> round(student_half([1.0, 2.0, 3.0]), 3)  # 4.303 standard errors of 0.577
        2.484
        >>> student_half([1.0]) is None
        True
    """
    from scipy import stats

    n = len(values)
    if n < 2:
        return None
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    return quantile * float(np.std(values, ddof=1)) / math.sqrt(n)


def _by_seed(
    metric: str, seeds: tuple[int, ...], one: Sequence[float], two: Sequence[float]
) -> Pairing:
    differences, _ = paired_differences(one, two)
    mean, half = float(np.mean(differences)), student_half(differences.tolist())
    effect = effect_size(one, two)
    p_value = _permutation(one, two)
    return Pairing(
        metric=metric,
        by="seed",
        seeds=seeds,
        n=len(seeds),
        failed=0,
        difference=mean,
        low=None if half is None else mean - half,
        high=None if half is None else mean + half,
        p_value=p_value,
        p_holm=p_value,
        p_smallest=_smallest(len(seeds)),
        p_wilcoxon=wilcoxon(one, two).p_value,
        cohens_dz=effect.cohens_dz,
        rank_biserial=effect.rank_biserial,
    )


def _by_case(
    metric: str,
    seeds: tuple[int, ...],
    ours: Scores,
    theirs: Scores,
) -> Pairing:
    cases = sorted(ours)
    one, two = ([side[case][0] for case in cases] for side in (ours, theirs))
    differences, _ = paired_differences(one, two)
    if len(cases) <= _MOST_RESAMPLED:
        interval = bootstrap_interval(differences)
        low, high = interval.low, interval.high
        p_value = _permutation(one, two)
    else:
        half = student_half(differences.tolist()) or 0.0
        low, high = float(differences.mean()) - half, float(differences.mean()) + half
        p_value = _normal_sign_test(differences)
    effect = effect_size(one, two)
    return Pairing(
        metric=metric,
        by="case",
        seeds=seeds,
        n=len(cases),
        failed=sum(ours[case][1] or theirs[case][1] for case in cases),
        difference=float(differences.mean()),
        low=None if math.isnan(low) else low,
        high=None if math.isnan(high) else high,
        p_value=p_value,
        p_holm=p_value,
        p_smallest=_smallest(len(cases)),
        p_wilcoxon=wilcoxon(one, two).p_value,
        cohens_dz=effect.cohens_dz,
        rank_biserial=effect.rank_biserial,
    )


def _permutation(one: Sequence[float], two: Sequence[float]) -> float:
    # With one pair, both signs are equally extreme.
    return permutation_test(one, two).p_value if len(one) > 1 else 1.0


def _normal_sign_test(differences: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Return the normal approximation of the two-sided permutation test for many pairs.

    Under random signs, the sum of the differences has mean 0, and its variance is the sum of their
    squares. If no pair differs, the p value is 1.
    """
    largest = float(np.abs(differences).max())
    if not largest:
        return 1.0
    scaled = differences / largest  # squares of tiny or huge values would be 0 or infinite
    spread = math.sqrt(float(np.square(scaled).sum()))
    return math.erfc(abs(float(scaled.sum())) / spread / math.sqrt(2))


def _smallest(pairs: int) -> float | None:
    """Return the smallest two-sided p value of an exact test: two out of all sign patterns.

    Example:
        >>> _smallest(1), _smallest(3), _smallest(100)
        (1.0, 0.25, None)
    """
    return 2 / 2**pairs if 2**pairs <= _SIGN_PATTERNS else None
