"""Tables of a comparison page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from famseg.reporting._compare import Comparison, smaller_is_better
from famseg.reporting._groups import Group, kinds_of
from famseg.reporting._html import Sortable
from famseg.reporting._overview import definitions, overview
from famseg.reporting._power import DEFINITION, powers
from famseg.reporting._runs import Run
from famseg.reporting._words import VERDICTS, label_of, verdict

MOST_FIGURES = 4  # metrics in figures and in the table of runs; the other tables have all


@dataclass(frozen=True)
class BothPairings:
    """A study, paired by seed and by case.

    Attributes:
        seeds: The comparison by seed.
        cases: The comparison of the same groups by case.
    """

    seeds: Comparison
    cases: Comparison

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of the study."""
        return self.seeds.study.groups


def comparison_tables(study: BothPairings, several: bool) -> Iterator[Sortable]:
    """Yield the tables: methods over seeds, differences, runs, differing settings.

    Args:
        study: The study in both pairings.
        several: Whether the page has several studies, so that titles must name the study.
    """
    prefix = f"{study.seeds.study.name}: " if several else ""
    metrics = study.seeds.metrics
    if metrics:
        yield _overview_table(study, prefix)
        power = _power_table(study, prefix)
        if power.rows:
            yield power
    yield _figures_table(study, prefix)
    paired = _pairs_table(study, prefix)
    if paired.rows:
        yield paired
    yield _runs_table(study, metrics, prefix)
    differing = _settings_table(study, prefix)
    if differing.rows:
        yield differing


def _overview_table(study: BothPairings, prefix: str) -> Sortable:
    metric = study.seeds.metrics[0]
    found = overview(study.seeds, metric)
    marked = frozenset(place for place, line in enumerate(found.lines) if line.collapsed)
    rows: list[list[str | float | int | None]] = [
        [
            line.name,
            line.score.n if line.score else 0,
            *(
                None if each is None else each.mean
                for each in (line.score, line.validation, line.gap, line.kappa, line.ratio)
            ),
        ]
        for line in found.lines
    ]
    return Sortable(
        title=f"{prefix}{label_of(metric).name} beside its controls",
        columns=[
            *("method", "n", label_of(metric).axis, f"validation {found.validation}"),
            *("gap", "kappa", "variance ratio"),
        ],
        rows=rows,
        digits=[0, 0, *[None] * 5],
        marked=marked,
        caption=f"Means over seeds. {definitions(found)} In red: a gain with a smaller variance "
        "ratio than the baseline's.",
    )


def _power_table(study: BothPairings, prefix: str) -> Sortable:
    metric = study.seeds.metrics[0]
    found = powers(study.seeds, metric)
    asked = list(found[0].needed) if found else []
    return Sortable(
        title=f"{prefix}What the seeds can show in {label_of(metric).name}",
        columns=["method", "seeds", "std of differences", "could show"]
        + [f"seeds for {each:g}" for each in asked],
        rows=[
            [each.group, each.n, each.std, each.detectable, *each.needed.values()] for each in found
        ],
        digits=[0, 0, None, None, *[0] * len(asked)],
        caption=f"{DEFINITION}.",
    )


def _figures_table(study: BothPairings, prefix: str) -> Sortable:
    rows: list[list[str | float | int | None]] = []
    for metric in study.seeds.metrics:
        for group in study.groups:
            found = study.seeds.figures.get((group.name, metric))
            if found is None:
                rows.append([metric, group.name, 0, *[None] * 6])
                continue
            numbers = (found.mean, found.std, found.low, found.high, found.best, found.worst)
            rows.append([metric, group.name, found.n, *numbers])
    return Sortable(
        title=f"{prefix}Methods over seeds",
        columns=["metric", "method", "n", "mean", "std", "low", "high", "best", "worst"],
        rows=rows,
        digits=[0, 0, 0, *[None] * 6],
        caption="n: finished runs that have the metric, one per seed. std: standard deviation over "
        "seeds (n - 1). low, high: 95 % interval of the mean, Student's t. A dash: too few runs.",
    )


def _pairs_table(study: BothPairings, prefix: str) -> Sortable:
    rows: list[list[str | float | int | None]] = []
    for comparison in (study.seeds, study.cases):
        for metric in comparison.metrics:
            for group in study.groups:
                pairing = comparison.pairings.get((group.name, metric))
                if pairing is None:
                    continue
                found = verdict(pairing, smaller_is_better=smaller_is_better(metric))
                rows.append(
                    [
                        metric,
                        group.name,
                        pairing.by,
                        pairing.n,
                        pairing.failed,
                        pairing.difference,
                        pairing.low,
                        pairing.high,
                        pairing.p_value,
                        pairing.p_holm,
                        VERDICTS[found],
                    ]
                )
    return Sortable(
        title=f"{prefix}Differences to {study.seeds.baseline}",
        columns=[
            *("metric", "method", "pairs by", "n", "failed", "difference", "low", "high"),
            *("p", "p Holm", "verdict"),
        ],
        rows=rows,
        digits=[0, 0, 0, 0, 0, None, None, None, 4, 4, 0],
        caption="By seed: new trainings, Student's t. By case: new cases for these trainings, "
        "bootstrap. p: two-sided permutation test of the mean difference; Holm: adjusted for the "
        "methods. Failed cases count with their worst score.",
    )


def _runs_table(study: BothPairings, metrics: Sequence[str], prefix: str) -> Sortable:
    shown = list(metrics[:MOST_FIGURES])
    rows: list[list[str | float | int | None]] = []
    marked = set()
    for group in study.groups:
        for run in sorted((*group.runs, *group.unfinished, *group.repeated), key=_seed):
            if run in group.unfinished:
                marked.add(len(rows))
            state = "a later run has its seed" if run in group.repeated else run.state
            values = [run.metrics.get(metric) for metric in shown]
            rows.append([run.path.name, group.name, run.seed, state, *values])
    return Sortable(
        title=f"{prefix}Runs",
        columns=["run", "method", "seed", "state", *(label_of(m).axis for m in shown)],
        rows=rows,
        digits=[0, 0, 0, 0, *(label_of(metric).digits for metric in shown)],
        marked=frozenset(marked),
        caption="Every run that was found. Runs that did not finish, in red, are not in any mean.",
    )


def _seed(run: Run) -> int:
    return run.seed


def _settings_table(study: BothPairings, prefix: str) -> Sortable:
    """Return the settings in which groups differ, with one column per group."""
    every = [(group.runs or group.unfinished or group.repeated)[0] for group in study.groups]
    keys = dict.fromkeys(key for run in every for key in run.settings)
    differing = [key for key in sorted(keys) if _differs(key, [run.settings for run in every])]
    return Sortable(
        title=f"{prefix}Settings that differ",
        columns=["setting", *(group.name for group in study.groups)],
        rows=[[key, *(run.settings.get(key) for run in every)] for key in differing],
        digits=[0] * (len(every) + 1),
        caption="A dash: not set. Runs of one method may differ in seed, name and folder.",
    )


def _differs(key: str, settings: Sequence[Mapping[str, str]]) -> bool:
    """Return whether a setting differs among groups whose section has the same kind."""
    values: dict[tuple[str | None, ...], set[str | None]] = {}
    for each in settings:
        values.setdefault(kinds_of(key, each), set()).add(each.get(key))
    return any(len(found) > 1 for found in values.values())
