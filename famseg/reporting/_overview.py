"""The main metric of a comparison, with controls that distinguish a gain from a collapse."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from famseg.config import load_pipeline
from famseg.messages import InputError
from famseg.reporting._compare import Comparison, smaller_is_better
from famseg.reporting._gap import evaluated_row, gap_values, kappa_values
from famseg.reporting._groups import Group
from famseg.reporting._pairs import student_half
from famseg.reporting._runs import Run
from famseg.reporting._words import verdict
from famseg.tracking import read_metrics

MEAN_SKULL = "mean skull"
_RATIO = "variance_ratio"
_LESS = 0.05  # of the baseline's variance ratio; a smaller decrease causes no warning


@dataclass(frozen=True)
class Mean:
    """A mean over the runs of a group that have the number; with several, the deviation."""

    n: int
    mean: float
    std: float | None


@dataclass(frozen=True)
class Line:
    """A group of runs, or the mean skull, which is not a network.

    Attributes:
        name: The group.
        score: The metric.
        validation: The validation's key metric at the evaluated epoch.
        gap: The generalization gap.
        kappa: Relative flatness.
        ratio: Ratio of the variance of outputs to that of references; 0 means the same output for
            all.
        collapsed: Whether it has a gain with a smaller ratio.
    """

    name: str
    score: Mean | None
    validation: Mean | None = None
    gap: Mean | None = None
    kappa: Mean | None = None
    ratio: Mean | None = None
    collapsed: bool = False


@dataclass(frozen=True)
class Overview:
    """A metric over seeds with other properties of the groups.

    Attributes:
        metric: Its flat name.
        lines: The baseline first, then the groups including controls, the mean skull last.
        validation: Name of the validation's metric.
        gap: The kind of gap.
        kappa: The kind of kappa.
        warnings: Sentences on gains that are collapses, on baselines that no group exceeds, and on
            missing controls.
    """

    metric: str
    lines: tuple[Line, ...]
    validation: str
    gap: str
    kappa: str
    warnings: tuple[str, ...]


def overview(comparison: Comparison, metric: str) -> Overview:
    """Return a metric over seeds with validation, gap, kappa and variance ratio.

    Args:
        comparison: From ``compare_runs``.
        metric: The metric, such as ``test/set1/implant/dsc``.
    """
    groups = [group for group in comparison.study.groups if group.runs]
    by_group = {group.name: group.runs for group in groups}
    gap_label, gaps = gap_values(by_group)
    kappa_label, kappas = kappa_values(by_group)
    validation, validated = _validated(comparison.study.pipeline, groups)
    ratio = _beside(metric, _RATIO)
    fallen = dict(_fallen(comparison, metric, ratio))
    lines = [
        Line(
            name=group.name,
            score=_of(group.runs, metric),
            validation=_mean([validated[r.path] for r in group.runs if r.path in validated]),
            gap=_mean([gaps[run.path] for run in group.runs if run.path in gaps]),
            kappa=_mean([kappas[run.path] for run in group.runs if run.path in kappas]),
            ratio=_of(group.runs, ratio),
            collapsed=group.name in fallen,
        )
        for group in groups
    ]
    skull = _mean_skull(groups, metric)
    if skull is not None:
        lines.append(Line(MEAN_SKULL, skull))
    warnings = [*fallen.values(), *_beaten(lines, metric), *_missing(groups, comparison.baseline)]
    return Overview(metric, tuple(lines), validation, gap_label, kappa_label, tuple(warnings))


def definitions(found: Overview) -> str:
    """Return the definitions of the columns of an overview as sentences."""
    parts = [f"Validation: {found.validation} at the epoch that was evaluated."]
    if any(line.gap for line in found.lines):
        parts.append(f"Gap: {found.gap}.")
    if any(line.kappa for line in found.lines):
        parts.append(f"Kappa: {found.kappa}.")
    if any(line.ratio for line in found.lines):
        parts.append(
            "Variance ratio: of the outputs over that of the references; 1: the outputs vary as "
            "much, 0: they are all the same."
        )
    return " ".join(parts)


def _of(runs: Sequence[Run], metric: str) -> Mean | None:
    return _mean([run.metrics[metric] for run in runs if metric in run.metrics])


def _mean(values: Sequence[float]) -> Mean | None:
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Mean(len(values), statistics.fmean(values), std)


def _beside(metric: str, name: str) -> str:
    """Return the metric of the same test set: ``test/set1/variance_ratio``."""
    return str(PurePosixPath(*PurePosixPath(metric).parts[:2], name))


def _mean_skull(groups: Sequence[Group], metric: str) -> Mean | None:
    """Return the score of the mean training skull, which is the same for all runs with a seed."""
    parts = PurePosixPath(metric).parts
    if len(parts) != 4:
        return None
    name = str(PurePosixPath(*parts[:2], "mean_skull", *parts[2:]))
    by_seed = {run.seed: run.metrics[name] for g in groups for run in g.runs if name in run.metrics}
    return _mean(list(by_seed.values()))


def _validated(pipeline: str, groups: Sequence[Group]) -> tuple[str, Mapping[Path, float]]:
    """Return the name of the validation's key metric, and its value at the evaluated epoch."""
    try:
        key = str(getattr(load_pipeline(pipeline), "KEY_METRIC", "loss"))
    except InputError:
        key = "loss"
    found = {}
    for group in groups:
        for run in group.runs:
            value = evaluated_row(run, read_metrics(run.path)).get(f"val/{key}")
            if value is not None:
                found[run.path] = value
    return key, found


def _fallen(comparison: Comparison, metric: str, ratio: str) -> Iterator[tuple[str, str]]:
    """Yield the groups that exceed the baseline while their outputs vary less, with a warning.

    The decrease in variance counts if it is more than 5 % of the baseline's and not due to chance:
    in every pair, or by Student's interval.
    """
    baseline = next((g for g in comparison.study.groups if g.name == comparison.baseline), None)
    if baseline is None:
        return
    smaller = smaller_is_better(metric)
    for group in comparison.study.groups:
        pairing = comparison.pairings.get((group.name, metric))
        if pairing is None or not pairing.difference:
            continue
        if (pairing.difference < 0) != smaller:
            continue
        seeds = sorted(group.by_seed.keys() & baseline.by_seed.keys())
        runs = [(group.by_seed[seed].metrics, baseline.by_seed[seed].metrics) for seed in seeds]
        pairs = [(one[ratio], two[ratio]) for one, two in runs if ratio in one and ratio in two]
        if not pairs:
            continue
        own, other = (statistics.fmean(side) for side in zip(*pairs, strict=True))
        losses = [two - one for one, two in pairs]
        half = student_half(losses)
        beyond_chance = min(losses) > 0 or (
            half is not None and statistics.fmean(losses) - half > 0
        )
        if other - own > _LESS * other and beyond_chance:
            shown = verdict(pairing, smaller_is_better=smaller) == "better"
            gain = "the gain" if shown else "what looks like a gain"
            yield (
                group.name,
                f"collapse: {group.name}: {gain} comes with a variance ratio of {own:.3f}, where "
                f"the baseline has {other:.3f}: its outputs depend less on the input. Compare it "
                "with the mean skull, and at equal variance ratio.",
            )


def _beaten(lines: Sequence[Line], metric: str) -> Iterator[str]:
    """Yield a warning if no network is better than the mean skull."""
    skull = next((line.score for line in lines if line.name == MEAN_SKULL), None)
    scores = [line.score.mean for line in lines if line.score and line.name != MEAN_SKULL]
    if skull is None or not scores:
        return
    sign = -1 if smaller_is_better(metric) else 1
    if max(sign * each for each in scores) <= sign * skull.mean and math.isfinite(skull.mean):
        yield (
            f"no group beats the mean skull ({skull.mean:.3f}), which ignores its input: here a "
            "collapse raises the score, and a difference says nothing about regularization."
        )


def _missing(groups: Sequence[Group], baseline: str | None) -> Iterator[str]:
    """Yield the controls of a flatness penalty that are missing in the groups."""
    settings = [group.runs[0].settings for group in groups]
    kinds = [each.get("penalty.kind") for each in settings]
    noise = [each.get("penalty.estimator") == "noise" for each in settings]
    penalized = [kind == "relative_flatness" for kind in kinds]
    if (
        baseline is None
        or not any(penalized)
        or all(noise[place] for place, is_ in enumerate(penalized) if is_)
    ):
        return
    controls = {
        "weight decay of the layer (penalty.kind=weight_decay)": "weight_decay" in kinds,
        "noise of the same size (penalty.estimator=noise)": any(noise),
    }
    lacking = [name for name, there in controls.items() if not there]
    if lacking:
        yield (
            f"controls that are not among the runs: {', '.join(lacking)}. A gain that they show as "
            "well is not an effect of flatness."
        )
