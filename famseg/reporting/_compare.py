"""Comparison of runs: statistics over seeds per method, and paired differences to a baseline."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from famseg.config import load_pipeline
from famseg.messages import InputError, counted, listed, near
from famseg.metrics import BY_NAME
from famseg.reporting._groups import Group, Study, studies
from famseg.reporting._pairs import By, Difference, Pairing, Pairs, adjusted, student_half
from famseg.reporting._runs import EPOCHS, SECONDS, Run
from famseg.tracking import is_score

_MOST_METRICS = 6
_MOST_NAMED = 8  # number of metrics listed in a message
_LEVEL = 0.05
# Last parts, or endings, of the names of metrics for which smaller is better.
_SMALLER = ("loss", "evaluation_loss", "error", "ece", "gap", "gap_loss", SECONDS, EPOCHS)
_SMALLER_END = "_mm"


@dataclass(frozen=True)
class Figures:
    """A metric over the seeds of a group.

    Attributes:
        metric: Its flat name.
        n: Number of runs with the metric.
        mean: Their mean.
        std: Standard deviation with n - 1; like the following, None for one run.
        standard_error: ``std / sqrt(n)``.
        low: Lower end of the 95 % interval of the mean, Student's t with n - 1 degrees of freedom.
        high: Upper end.
        best: Value of the best run, which for losses and distances is the lowest.
        worst: Value of the worst run.
    """

    metric: str
    n: int
    mean: float
    std: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    best: float
    worst: float


@dataclass(frozen=True)
class Comparison:
    """A study with its figures.

    Attributes:
        study: The groups.
        metrics: Flat names of the metrics, the main one first.
        baseline: Name of the group with which the others are compared; None if there is none.
        by: The unit of pairs: the seed or the case.
        figures: Figures by group and metric; combinations without runs are left out.
        pairings: Pairings by group and metric, if they could be paired.
        differences: The pairs behind each pairing, by group and metric.
        notes: Reservations about the results, one sentence each.
    """

    study: Study
    metrics: tuple[str, ...]
    baseline: str | None
    by: By
    figures: Mapping[tuple[str, str], Figures]
    pairings: Mapping[tuple[str, str], Pairing]
    differences: Mapping[tuple[str, str], tuple[Difference, ...]]
    notes: tuple[str, ...]


def smaller_is_better(metric: str) -> bool:
    """Return whether a smaller value of a metric is better.

    Example:
        >>> [smaller_is_better(name) for name in ("test/loss", "test/set1/skull/hd95_mm")]
        [True, True]
        >>> [smaller_is_better(name) for name in ("test/accuracy", "test/set1/skull/dsc")]
        [False, False]
    """
    name = PurePosixPath(metric).name
    if name in BY_NAME:
        return BY_NAME[name].better == "smaller"
    return name in _SMALLER or name.endswith(_SMALLER_END)


def compare_runs(
    runs: Sequence[Run],
    *,
    metrics: Sequence[str] = (),
    baseline: str | None = None,
    by: By = "seed",
) -> list[Comparison]:
    """Compare runs of several methods and seeds.

    Runs are sorted into studies (one pipeline, the same data) and there into groups (one
    configuration, several seeds). Within a study each group is compared with a baseline in pairs.
    Unfinished runs are left out of all statistics but stay in the groups, where they are counted.

    Args:
        runs: Runs of any pipelines, from ``find_runs``.
        metrics: Flat names of the metrics; empty for the scores of each pipeline.
        baseline: Name of the baseline's group, or a part of it that no other has; None for the one
            group that is trained without penalty, SAM and its variants, NSO and SWA.
        by: ``seed`` speaks about new trainings; ``case`` about new cases for the networks at hand.

    Returns:
        A comparison a study.

    Raises:
        InputError: If no run finished, no run has a metric, or no group is called like the
            baseline.
    """
    if not any(run.finished for run in runs):
        raise InputError(
            *(f"{run.path}: not finished: {run.state}" for run in runs),
            "no run is finished: there is nothing to compare. Resume with famseg train --resume.",
        )
    found = studies(runs)
    _check_metrics(runs, metrics)
    chosen = [_baseline(study, baseline) for study in found]
    if baseline is not None and not any(chosen):
        names = [group.name for study in found for group in study.groups]
        raise InputError(
            f"--baseline: {baseline!r} matches the name of no group or of several. Choose one of: "
            f"{'; '.join(names)}"
        )
    return [
        _compare(study, tuple(metrics) or _scores(study), group, by)
        for study, group in zip(found, chosen, strict=True)
    ]


def _compare(study: Study, metrics: tuple[str, ...], baseline: Group | None, by: By) -> Comparison:
    figures = {
        (group.name, metric): found
        for group in study.groups
        for metric in metrics
        if (found := _figures(group, metric)) is not None
    }
    notes = list(_counts(study, metrics))
    pairings: dict[tuple[str, str], Pairing] = {}
    differences: dict[tuple[str, str], tuple[Difference, ...]] = {}
    others = [group for group in study.groups if group is not baseline and group.runs]
    if baseline is None:
        notes += [_no_baseline(study)] if others else []
    else:
        pairs = Pairs(baseline, by, metrics)
        faults = {group.name: pairs.fault(group) for group in others}
        notes += [f"{name}: not paired: {fault}" for name, fault in faults.items() if fault]
        paired = [group for group in others if faults[group.name] is None]
        for metric in metrics:
            both = [(group.name, pairs.pairing(group, metric)) for group in paired]
            done = [(name, pairing) for name, pairing in both if pairing is not None]
            if len(done) < len(both) and by == "case":
                notes.append(f"{metric}: not paired: it is not a metric of single cases")
            values = adjusted([pairing for _, pairing in done])
            pairings |= {(name, metric): p for (name, _), p in zip(done, values, strict=True)}
            differences |= {
                (group.name, metric): pairs.differences(group, metric)
                for group in paired
                if (group.name, metric) in pairings
            }
        notes += _power(pairings.values(), by)
    name = None if baseline is None else baseline.name
    return Comparison(study, metrics, name, by, figures, pairings, differences, tuple(notes))


def _figures(group: Group, metric: str) -> Figures | None:
    values = [run.metrics[metric] for run in group.runs if metric in run.metrics]
    if not values:
        return None
    n, mean, half = len(values), statistics.fmean(values), student_half(values)
    std = statistics.stdev(values) if n > 1 else None
    ends = (min(values), max(values))
    best, worst = ends if smaller_is_better(metric) else ends[::-1]
    return Figures(
        metric=metric,
        n=n,
        mean=mean,
        std=std,
        standard_error=None if std is None else std / n**0.5,
        low=None if half is None else mean - half,
        high=None if half is None else mean + half,
        best=best,
        worst=worst,
    )


def _scores(study: Study) -> tuple[str, ...]:
    """Return the metrics to show: those declared by the pipeline, else the first of its numbers."""
    present = dict.fromkeys(
        name for group in study.groups for run in group.runs for name in run.metrics
    )
    try:
        named = getattr(load_pipeline(study.pipeline), "SCORES", ())
    except InputError:
        named = ()
    found = [name for name in named if name in present]
    return tuple(found or list(_of_scores(present))[:_MOST_METRICS])


def _of_scores(names: Mapping[str, None]) -> Iterator[str]:
    """Yield the names of scores, without counts, spreads and times."""
    for name in names:
        if name not in (SECONDS, EPOCHS) and is_score(name, names):
            yield name


def _check_metrics(runs: Sequence[Run], metrics: Sequence[str]) -> None:
    known = dict.fromkeys(name for run in runs for name in run.metrics)
    faults = []
    for metric in metrics:
        if metric not in known:
            meant = _meant(metric, known)
            if len(meant) == 1:
                advice = f"Did you mean {meant[0]}?"
            else:
                names = meant or list(_of_scores(known))
                more = len(names) - _MOST_NAMED
                rest = f" and {more} more" if more > 0 else ""
                advice = f"There are: {listed(names[:_MOST_NAMED])}{rest}"
            faults.append(f"--metric: no run has {metric}. {advice}")
    if faults:
        raise InputError(*faults)


def _meant(metric: str, known: Mapping[str, None]) -> list[str]:
    """Return the scores whose names end like the requested one, or the most similar name."""
    wanted = PurePosixPath(metric).name
    scores = list(_of_scores(known))
    same = [name for name in scores if PurePosixPath(name).name == wanted]
    if same:
        return same
    nearest = near(metric, known)
    if nearest is not None:
        return [nearest]
    last = near(wanted, dict.fromkeys(PurePosixPath(name).name for name in scores))
    return [name for name in scores if PurePosixPath(name).name == last]


def _baseline(study: Study, wanted: str | None) -> Group | None:
    candidates = [group for group in study.groups if group.runs]
    if wanted is None:
        plain = [group for group in candidates if group.plain]
        untouched = [group for group in plain if group.method == "baseline"]
        found = untouched if len(untouched) == 1 else plain
    else:
        exact = [group for group in candidates if group.name == wanted]
        found = exact or [g for g in candidates if wanted.casefold() in g.name.casefold()]
    return found[0] if len(found) == 1 else None


def _no_baseline(study: Study) -> str:
    plain = [group.name for group in study.groups if group.plain and group.runs]
    why = "no group is a baseline"
    if plain:
        why = "several groups have no penalty, no SAM or variant of it, no NSO and no SWA"
    return f"not paired: {why}. Choose one with --baseline NAME."


def _counts(study: Study, metrics: Sequence[str]) -> Iterator[str]:
    """Yield a line for each run or setting that is omitted from results or names, or is unknown."""
    silent = [str(run.path) for group in study.groups for run in group.runs if not run.noted]
    if silent:
        yield (
            f"evaluated by a version that did not record the checkpoint: {listed(silent)}. "
            "Evaluate "
            "them again if --checkpoint last was ever used."
        )
    if study.usual:
        yield f"unless a name says otherwise: {', '.join(study.usual)}"
    for group in study.groups:
        for run in group.unfinished:
            which = f"{run.path} ({group.name}, seed {run.seed})"
            yield f"not finished, left out of all results: {which}: {run.state}"
        for run in group.repeated:
            which = f"{run.path} ({group.name}, seed {run.seed})"
            yield f"left out of all results, because a later run has the same seed: {which}"
        for metric in metrics:
            lack = [str(run.path) for run in group.runs if metric not in run.metrics]
            if lack:
                runs = counted(len(lack), "run")
                yield f"{metric}: not in {runs} of {group.name}: {listed(lack)}"


def _power(pairings: Iterable[Pairing], by: By) -> Iterator[str]:
    """Yield the smallest possible p value of each comparison, unless it is small."""
    for n in sorted({each.n for each in pairings if (each.p_smallest or 0) > _LEVEL}):
        yield (
            f"with {counted(n, 'pair')} no p value can be below {2 / 2**n:g} "
            f"(2 / 2^{n}); one below {_LEVEL} takes 6 {by}s or more"
        )
