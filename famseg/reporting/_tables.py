"""Comparisons as tables, for the terminal and for pasting."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from famseg.config._visible import visible
from famseg.reporting._compare import Comparison, smaller_is_better
from famseg.reporting._pairs import CONFIDENCE
from famseg.reporting._runs import EPOCHS, SECONDS

_INTERVAL = f"{CONFIDENCE:.0%} interval".replace("%", " %")
_ABSENT = "-"
_FIGURES = (
    "std: standard deviation over seeds (n - 1); s.e.: std / sqrt(n); "
    f"{_INTERVAL}: Student's t over seeds"
)
_PAIRED = {
    "seed": f"pairs: runs of one seed; their {_INTERVAL}: Student's t",
    "case": "pairs: scores of one case, means over the common seeds, about new cases for "
    f"these trainings; their {_INTERVAL}: bootstrap, beyond 1000 cases the normal limit",
}
_TESTS = (
    "p: permutation test of the mean difference, two-sided; Holm: p adjusted for the groups of a "
    "table; d: difference / its standard deviation"
)


@dataclass(frozen=True)
class Table:
    """A table with a title.

    Attributes:
        title: What it shows.
        header: Names of the columns.
        rows: Cells, as many in each row as there are columns.
        notes: Sentences below it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def tables(comparison: Comparison) -> list[Table]:
    """Return a study's tables: its groups, each metric over seeds, differences to the baseline.

    Args:
        comparison: From ``compare_runs``.
    """
    found = [_groups(comparison)]
    for metric in comparison.metrics:
        figures = _figures(comparison, metric)
        pairings = _pairings(comparison, metric)
        found += [each for each in (figures, pairings) if each.rows]
    read = dict.fromkeys(run.checkpoint for group in comparison.study.groups for run in group.runs)
    scores = [f"scores: of checkpoints/{checkpoint}.pt of each run" for checkpoint in read]
    definitions = [_FIGURES, _PAIRED[comparison.by], _TESTS]
    notes = (*found[-1].notes, *scores, *definitions[: None if comparison.pairings else 1])
    return [*found[:-1], replace(found[-1], notes=notes)]


def plain(tables: Sequence[Table]) -> str:
    """Return tables as aligned text, without a newline at the end."""
    blocks = []
    for table in tables:
        widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
        lines = [table.title, *(_aligned(row, widths) for row in (table.header, *table.rows))]
        blocks.append("\n".join([*lines, *(f"  {note}" for note in table.notes)]))
    return "\n\n".join(blocks)


def markdown(tables: Sequence[Table]) -> str:
    """Return tables in Markdown, without a newline at the end."""
    blocks = []
    for table in tables:
        rule = ("---", *("---:" for _ in table.header[1:]))
        lines = [f"**{_marked(table.title)}**", ""]
        lines += [_piped(row) for row in (table.header, rule, *table.rows)]
        for note in table.notes:
            lines += ["", note]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _groups(comparison: Comparison) -> Table:
    study = comparison.study
    rows = tuple(
        (
            group.name,
            str(len(group.runs)),
            str(len(group.unfinished)),
            " ".join(str(run.seed) for run in group.runs) or _ABSENT,
            _spread([run.metrics[EPOCHS] for run in group.runs if EPOCHS in run.metrics], 0),
            _spread([run.metrics[SECONDS] for run in group.runs if SECONDS in run.metrics], 1),
        )
        for group in study.groups
    )
    header = ("group", "finished", "not finished", "seeds", "epochs", "training s")
    return Table(study.name, header, rows, comparison.notes)


def _figures(comparison: Comparison, metric: str) -> Table:
    found = [
        (group.name, figures)
        for group in comparison.study.groups
        if (figures := comparison.figures.get((group.name, metric))) is not None
    ]
    digits = _digits([figures.mean for _, figures in found])
    rows = tuple(
        (
            name,
            str(each.n),
            _number(each.mean, digits),
            _number(each.std, digits),
            _number(each.standard_error, digits),
            _interval(each.low, each.high, digits),
            _number(each.best, digits),
            _number(each.worst, digits),
        )
        for name, each in found
    )
    header = ("group", "n", "mean", "std", "s.e.", _INTERVAL, "best", "worst")
    better = "lower" if smaller_is_better(metric) else "higher"
    return Table(f"{metric} ({better} is better)", header, rows)


def _pairings(comparison: Comparison, metric: str) -> Table:
    found = [
        (group.name, pairing)
        for group in comparison.study.groups
        if (pairing := comparison.pairings.get((group.name, metric))) is not None
    ]
    level = comparison.figures.get((comparison.baseline or "", metric))
    digits = _digits([level.mean if level else 1.0])
    rows = tuple(
        (
            name,
            str(each.n),
            f"{each.difference:+.{digits}f}",
            _interval(each.low, each.high, digits, sign="+"),
            _p(each.p_value),
            _p(each.p_holm),
            _p(each.p_wilcoxon),
            "-" if math.isnan(each.cohens_dz) else f"{each.cohens_dz:+.2f}",
        )
        for name, each in found
    )
    header = ("group", "pairs", "difference", _INTERVAL, "p", "Holm", "Wilcoxon p", "d")
    title = f"{metric}: difference to {comparison.baseline}, by {comparison.by}"
    failed = max((each.failed for _, each in found), default=0)
    note = f"failed cases count with the worst value: up to {failed} of the pairs"
    return Table(title, header, rows, (note,) if failed else ())


def _digits(values: Sequence[float]) -> int:
    """Return the decimals at which seeds differ: of shares, of millimetres, of larger numbers."""
    largest = max(map(abs, values), default=0.0)
    return 4 if largest < 2 else 3 if largest < 20 else 1


def _number(value: float | None, digits: int) -> str:
    return _ABSENT if value is None else f"{value:.{digits}f}"


def _interval(low: float | None, high: float | None, digits: int, sign: str = "") -> str:
    if low is None or high is None:
        return _ABSENT
    return f"{low:{sign}.{digits}f} to {high:{sign}.{digits}f}"


def _p(value: float) -> str:
    # NaN is smaller than nothing: it must not be printed as what is beyond the last digit.
    if math.isnan(value):
        return _ABSENT
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return _ABSENT
    low, high = (f"{end:.{digits}f}" for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(("", first, *others)).rstrip()


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_marked, cells)) + " |"


def _marked(text: str) -> str:
    """Return a text that Markdown shows as it stands: names of groups are anybody's."""
    text = re.sub(r"([\\`*\[\]|])", r"\\\1", visible(text))
    return text.replace("&", "&amp;").replace("<", "&lt;")
