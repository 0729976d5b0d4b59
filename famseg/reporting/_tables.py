"""Comparisons as tables, for the terminal and for pasting into documents."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from famseg.messages import visible
from famseg.reporting._compare import Comparison, smaller_is_better
from famseg.reporting._overview import Overview, definitions, overview
from famseg.reporting._pairs import CONFIDENCE
from famseg.reporting._power import DEFINITION, Power, amount, powers
from famseg.reporting._runs import EPOCHS, SECONDS
from famseg.reporting._words import label_of

_INTERVAL = f"{CONFIDENCE:.0%} interval".replace("%", " %")
_ABSENT = "-"
_STD = "std: standard deviation over seeds (n - 1); "
_ERROR = "s.e.: std / sqrt(n); "
_MEANS = f"{_INTERVAL}: Student's t over seeds"
_PAIRED = {
    "seed": f"pairs: runs of one seed; their {_INTERVAL}: Student's t",
    "case": "pairs: scores of one case, means over the common seeds, about new cases for "
    f"these trainings; their {_INTERVAL}: bootstrap, beyond 1000 cases the normal limit",
}
_TESTS = (
    "p: permutation test of the mean difference, two-sided; Holm: p adjusted for the groups of a "
    "table"
)
_EFFECT = "; d: difference / its standard deviation"
_IMPLIED = ("s.e.", "Wilcoxon p", "d")
_NARROWEST = 14  # minimum width of the first column


@dataclass(frozen=True)
class Table:
    """A table with a title.

    Attributes:
        title: Its title.
        header: Names of the columns.
        rows: Cells, one per column in each row.
        notes: Sentences below it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def tables(comparison: Comparison, *, short: bool = False) -> list[Table]:
    """Return a study's tables: its groups, each metric over seeds, differences to the baseline.

    Args:
        comparison: From ``compare_runs``.
        short: Whether to omit columns implied by others in the same table (standard errors, effect
            sizes and the signed-rank test), so that tables fit 80 columns.
    """
    found = [_groups(comparison)]
    for metric in comparison.metrics:
        both = (_figures(comparison, metric), _pairings(comparison, metric))
        found += [each for each in both if each.rows]
    if short:
        found = [_without(each, _IMPLIED) for each in found]
    read = dict.fromkeys(run.checkpoint for group in comparison.study.groups for run in group.runs)
    scores = [f"scores: of checkpoints/{checkpoint}.pt of each run" for checkpoint in read]
    figures = f"{_STD}{'' if short else _ERROR}{_MEANS}"
    definitions = [figures, _PAIRED[comparison.by], f"{_TESTS}{'' if short else _EFFECT}"]
    notes = (*found[-1].notes, *scores, *definitions[: None if comparison.pairings else 1])
    return [*found[:-1], replace(found[-1], notes=notes)]


def summary_tables(comparison: Comparison, wanted: Sequence[float] = ()) -> list[Table]:
    """Return the main metric with its controls, and the power of the pairs in it.

    Args:
        comparison: From ``compare_runs``.
        wanted: Differences for which the second table states the required number of pairs; empty
            for values that suit the metric.
    """
    if not comparison.metrics:
        return []
    metric = comparison.metrics[0]
    found = [_overview(overview(comparison, metric))]
    power = powers(comparison, metric, wanted)
    return [*found, _power(power, comparison, metric)] if power else found


def _overview(found: Overview) -> Table:
    label = label_of(found.metric)
    rows = []
    for line in found.lines:
        n, score = "0", _ABSENT
        if line.score is not None:
            spread = "" if line.score.std is None else f" ± {line.score.std:.{label.digits}f}"
            n, score = str(line.score.n), f"{line.score.mean:.{label.digits}f}{spread}"
        others = [
            _ABSENT if each is None else f"{each.mean:.3g}"
            for each in (line.validation, line.gap, line.kappa, line.ratio)
        ]
        rows.append((f"{line.name}{' !' * line.collapsed}", n, score, *others))
    header = ("group", "n", "mean ± std", "val", "gap", "kappa", "ratio")
    notes = [*re.split(r"(?<=\.) (?=[A-Z])", definitions(found).replace("Variance ratio", "Ratio"))]
    notes += ["!: a gain with a smaller variance ratio"] * any(x.collapsed for x in found.lines)
    better = "lower" if smaller_is_better(found.metric) else "higher"
    title = f"{label.axis}, {better} is better, and its controls; means over seeds"
    return Table(title, header, tuple(rows), tuple(each.rstrip(".") for each in notes))


def _power(found: Sequence[Power], comparison: Comparison, metric: str) -> Table:
    asked = list(found[0].needed)
    pairs = f"{comparison.by}s"
    rows = tuple(
        (
            each.group,
            str(each.n),
            amount(each.std, metric),
            "nothing" if each.detectable is None else amount(each.detectable, metric),
            *("> 100000" if n is None else str(n) for n in each.needed.values()),
        )
        for each in found
    )
    header = ("group", pairs, "std of diff.", "could show", *(f"for {x:g}" for x in asked))
    title = f"How large a difference {pairs} can show, and how many show one of a size"
    note = DEFINITION.replace("pairs", pairs).replace(f"{pairs} for:", "for:")
    return Table(title, header, rows, (note,))


def _without(table: Table, names: Sequence[str]) -> Table:
    kept = [place for place, name in enumerate(table.header) if name not in names]
    header = tuple(table.header[place] for place in kept)
    return replace(
        table, header=header, rows=tuple(tuple(row[i] for i in kept) for row in table.rows)
    )


def plain(tables: Sequence[Table], *, width: int | None = None) -> str:
    """Return tables as aligned text, without a newline at the end.

    Args:
        tables: From `tables` or `summary_tables`.
        width: Width to which names, titles and notes are wrapped; None does not wrap.
    """
    blocks = []
    for table in tables:
        # Not with text_table, since names are wrapped to a width with a hanging indent.
        widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
        if width is not None:
            others = sum(widths[1:]) + 2 * len(widths)
            widths[0] = min(widths[0], max(_NARROWEST, width - others))
        lines = folded(table.title, width)
        for row in (table.header, *table.rows):
            first, *rest = textwrap.wrap(row[0], widths[0]) or [""]
            lines += [_aligned((first, *row[1:]), widths), *(f"    {each}" for each in rest)]
        lines += [line for note in table.notes for line in folded(note, width, "  ")]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def folded(text: str, width: int | None, indent: str = "") -> list[str]:
    """Return a text wrapped to a width, with a hanging indent."""
    if width is None:
        return [f"{indent}{text}"]
    more = f"{indent}  "
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=more, break_on_hyphens=False
    )


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
    """Return the decimals at which seeds differ, for shares, millimeters and larger numbers."""
    largest = max(map(abs, values), default=0.0)
    return 4 if largest < 2 else 3 if largest < 20 else 1


def _number(value: float | None, digits: int) -> str:
    return _ABSENT if value is None else f"{value:.{digits}f}"


def _interval(low: float | None, high: float | None, digits: int, sign: str = "") -> str:
    if low is None or high is None:
        return _ABSENT
    return f"{low:{sign}.{digits}f} to {high:{sign}.{digits}f}"


def _p(value: float) -> str:
    # NaN compares as false and must not be printed as "smaller than the last digit".
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
    """Return a text escaped for Markdown, since names of groups are untrusted."""
    text = re.sub(r"([\\`*\[\]|])", r"\\\1", visible(text))
    return text.replace("&", "&amp;").replace("<", "&lt;")
