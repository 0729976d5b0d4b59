"""The page about several runs: a verdict, tables over seeds, plots, differing settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from famseg.messages import InputError, counted
from famseg.reporting._compare import compare_runs, smaller_is_better
from famseg.reporting._comparison_figures import (
    Level,
    by_group,
    kappa_and_gap,
    over_lambda,
    pair_differences,
)
from famseg.reporting._comparison_tables import MOST_FIGURES, BothPairings, comparison_tables
from famseg.reporting._gap import gaps
from famseg.reporting._html import Image, Page
from famseg.reporting._runs import Found, Run
from famseg.reporting._verdict import POSSIBLE, verdict_lines
from famseg.reporting._words import label_of

_FOOT = "Research only, not a medical device."


def comparison_page(
    found: Found, *, metrics: Sequence[str] = (), baseline: str | None = None
) -> Page:
    """Return the report of several runs; its numbers are those of ``famseg compare``.

    Args:
        found: The runs, from ``find_runs``.
        metrics: Flat names of the metrics; empty for the scores of each pipeline.
        baseline: Name of the baseline's group, or a part of it; None for the group that is trained
            without penalty and other ways of finding flat minima.

    Raises:
        InputError: As ``compare_runs``.
    """
    seeds, cases = (
        compare_runs(found.runs, metrics=metrics, baseline=baseline, by=by)
        for by in ("seed", "case")
    )
    studies = [BothPairings(*both) for both in zip(seeds, cases, strict=True)]
    several = len(studies) > 1
    finished = sum(run.finished for run in found.runs)
    return Page(
        title=f"Comparison of {_runs(len(found.runs))}",
        lead=_lead(studies),
        facts=_facts(studies, finished, len(found.runs) - finished),
        findings=[
            *(
                line
                for each in studies
                for line in _named(each, several, verdict_lines(each.seeds, each.cases))
            ),
            POSSIBLE,
        ],
        warnings=[
            *found.notes,
            *(line for each in studies for line in _named(each, several, _warnings(each))),
        ],
        images=[image for each in studies for image in _images(each, several)],
        tables=[table for each in studies for table in comparison_tables(each, several)],
        settings=_common(found.runs),
        foot=f"famseg compare gives the same numbers: {_checkpoints(found.runs)}. {_FOOT}",
    )


def _named(study: BothPairings, several: bool, lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield f"{study.seeds.study.name}: {line}" if several else line


def _runs(n: int) -> str:
    return counted(n, "run")


def _lead(studies: Sequence[BothPairings]) -> str:
    if len(studies) > 1:
        names = "; ".join(each.seeds.study.name for each in studies)
        return f"Different pipelines or data are compared separately: {names}."
    (study,) = studies
    baseline = study.seeds.baseline
    against = f"The others are compared with {baseline}." if baseline else "There is no baseline."
    methods = counted(len(study.groups), "method")
    return f"{study.seeds.study.name}: {methods}. {against}"


def _facts(studies: Sequence[BothPairings], finished: int, unfinished: int) -> dict[str, str]:
    seeds = {run.seed for study in studies for group in study.groups for run in group.runs}
    return {
        "Finished": _runs(finished),
        "Not finished, not in any mean": _runs(unfinished),
        "Seeds": f"{len(seeds)}: {', '.join(map(str, sorted(seeds)))}" if seeds else "none",
    }


def _warnings(study: BothPairings) -> Iterator[str]:
    yield from dict.fromkeys([*study.seeds.notes, *_of_cases(study)])


def _of_cases(study: BothPairings) -> Iterator[str]:
    """Yield notes that apply only to pairs of cases."""
    for note in study.cases.notes:
        if note not in study.seeds.notes and "not paired" in note:
            yield f"over cases: {note}"


def _images(study: BothPairings, several: bool) -> Iterator[Image]:
    prefix = f"{study.seeds.study.name}: " if several else ""
    for metric in study.seeds.metrics[:MOST_FIGURES]:
        label = label_of(metric)
        levels = _levels_of(study, metric)
        if not levels:
            continue
        series = _lambda_series(study, levels)
        better = "lower is better" if smaller_is_better(metric) else "higher is better"
        if series:
            yield Image(
                f"{prefix}{label.name} against lambda",
                over_lambda(series, label.axis),
                f"{label.name} of every run against lambda, with mean and 95 % interval",
                caption=f"{metric}, {better}. Interval: Student's t over seeds. Left of the break: "
                "lambda 0, which has no logarithm.",
            )
        if not series or len(levels) > sum(map(len, series.values())):
            yield Image(
                f"{prefix}{label.name} by method",
                by_group(levels, label.axis),
                f"{label.name} of every run by method, with mean and 95 % interval",
                caption=f"{metric}, {better}. Interval: Student's t over seeds.",
            )
        yield from _difference_images(study, metric, prefix)
    yield from _gap_images(study, prefix)


def _difference_images(study: BothPairings, metric: str, prefix: str) -> Iterator[Image]:
    """Yield figures of the differences per case, or per seed if cases cannot be paired."""
    label = label_of(metric)
    for comparison, pair, what in ((study.cases, "case", "case"), (study.seeds, "seed", "seed")):
        groups = {
            group.name: (
                comparison.differences[group.name, metric],
                pairing.difference,
                pairing.low,
                pairing.high,
            )
            for group in study.groups
            if (pairing := comparison.pairings.get((group.name, metric))) is not None
        }
        if not groups:
            continue
        interval = "bootstrap over cases" if pair == "case" else "Student's t over seeds"
        mean = ", each the mean over the common seeds" if pair == "case" else ""
        yield Image(
            f"{prefix}{label.name}: difference to {comparison.baseline} per {what}",
            pair_differences(groups, label.axis, pair),
            f"Paired differences in {label.name} per {what}, with mean and 95 % interval",
            caption=f"{metric}. A point per {what}{mean}; 95 % interval: {interval}.",
        )
        return


def _gap_images(study: BothPairings, prefix: str) -> Iterator[Image]:
    found = gaps({group.name: group.runs for group in study.groups})
    if found is None:
        return
    missing = ""
    if found.missing:
        missing = (
            f" Unknown for {_runs(len(found.missing))} ({', '.join(found.missing[:3])}"
            f"{', ...' if len(found.missing) > 3 else ''}): famseg measure RUN gives their kappa."
        )
    yield Image(
        f"{prefix}Kappa against the generalization gap",
        kappa_and_gap(found),
        "Generalization gap of every run against its relative flatness kappa",
        caption=f"A point per run, at the epoch that was evaluated.{missing}",
    )


def _levels_of(study: BothPairings, metric: str) -> dict[str, Level]:
    found = {}
    for group in study.groups:
        figures = study.seeds.figures.get((group.name, metric))
        if figures is not None:
            values = [run.metrics[metric] for run in group.runs if metric in run.metrics]
            weight = float(group.runs[0].settings.get("penalty.lambda", "0"))
            found[group.name] = Level(values, figures.mean, figures.low, figures.high, weight)
    return found


def _lambda_series(study: BothPairings, levels: Mapping[str, Level]) -> dict[str, list[Level]]:
    """Return groups that differ only in lambda, by kind of penalty; lambda 0 belongs to each.

    It is empty if no penalty has two lambdas.
    """
    series: dict[tuple[tuple[str, str], ...], list[Level]] = {}
    plain: dict[tuple[tuple[str, str], ...], Level] = {}
    names: dict[tuple[tuple[str, str], ...], str] = {}
    for group in study.groups:
        level = levels.get(group.name)
        if level is None:
            continue
        settings = group.runs[0].settings
        rest = _without_penalty(settings)
        if not level.weight:
            plain[rest] = level
            continue
        key = tuple((k, v) for k, v in settings.items() if k != "penalty.lambda")
        series.setdefault(key, []).append(level)
        name = group.name.replace(f"lambda={settings.get('penalty.lambda')}", "lambda")
        names.setdefault(key, name.replace(" lambda", "").strip(" ,") or group.method)
    found: dict[str, list[Level]] = {}
    for key, each in series.items():
        rest = _without_penalty(dict(key))
        full = [plain[rest], *each] if rest in plain else each
        if len(full) > 1:
            found[names[key]] = full
    return found


def _without_penalty(settings: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((k, v) for k, v in settings.items() if not k.startswith("penalty."))


def _common(runs: Sequence[Run]) -> dict[str, str]:
    first, *others = [run.settings for run in runs]
    return {
        key: value
        for key, value in first.items()
        if all(other.get(key) == value for other in others)
    }


def _checkpoints(runs: Sequence[Run]) -> str:
    read = dict.fromkeys(run.checkpoint for run in runs)
    return " and ".join(f"scores of checkpoints/{name}.pt" for name in read)


def check_comparable(found: Found) -> None:
    """Raise an error if runs cannot be compared.

    Raises:
        InputError: If there is only one run.
    """
    if len(found.runs) < 2:
        raise InputError(
            f"{found.runs[0].path}: is the only run in the folder. Give several runs to compare, "
            "or the run folder itself for its report."
        )
