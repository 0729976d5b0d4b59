"""A flatness report as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from famseg.flatness._measurement._rows import LayerRow, Report, RescalingRow

_Cell = Callable[["LayerRow"], str]

# Heading and content of each column; a column with only dashes is omitted.
_NUMBERS: tuple[tuple[str, _Cell], ...] = (
    ("kappa", lambda row: number(row.kappa)),
    ("s.e.", lambda row: number(row.kappa_error, digits=2)),
    ("kappa/m", lambda row: number(row.kappa_per_feature)),
    ("|W|^2 Tr(H)", lambda row: number(row.simplified)),
    ("s.e.", lambda row: number(row.simplified_error, digits=2)),
    ("sum |w|^2 eig", lambda row: number(row.max_eigenvalue)),
    ("Tr(H)", lambda row: number(row.trace)),
    ("eig(H)", lambda row: number(row.largest_eigenvalue)),
    ("estimator", lambda row: row.estimator or "-"),
)
_NAMED = 3  # layers named in a remark; others are only counted
_LEFT = ("layer", "type", "estimator")
_DEFINITIONS = """\
kappa = sum over rows s, t of W of <w_s, w_t> Tr(H_st), H the Hessian of the mean loss in W, d x m.
In units of the loss, and not changed by a rescaling of the layer: kappa, kappa/m, |W|^2 Tr(H)
(Frobenius norm) and sum |w|^2 eig (over rows, |w_s|^2 times the largest eigenvalue of H_ss).
Per squared weight, and moved: Tr(H) and eig(H), the largest eigenvalue of H. s.e.: standard error\
"""


def number(value: float | None, *, digits: int = 4) -> str:
    """Return a number formatted for the table.

    Example:
        >>> number(0.000123456), number(12), number(1234567.0), number(None)
        ('0.0001235', '12', '1.235e+06', '-')
    """
    return "-" if value is None else f"{value:.{digits}g}"


def table(report: Report) -> str:
    """Return the whole text of a report; see `Report.table`."""
    measured = [row for row in report.rows if row.failure is None]
    parts = [_title(report), "", *_body(report.rows), "", _DEFINITIONS]
    parts += _grouped(measured, _error_text)
    parts += _grouped(measured, lambda row: f"{row.estimator}: {row.reason}" if row.reason else "")
    parts += [f"{row.name}: {note}" for row in measured for note in row.notes]
    parts += _rescaling(report.rescaling)
    if failed := len(report.rows) - len(measured):
        parts.append(f"{failed} of {len(report.rows)} layers could not be measured.")
    return "\n".join(parts)


def _title(report: Report) -> str:
    samples = counted(report.samples, "sample")
    batches = counted(report.batches, "batch", "batches")
    return f"Relative flatness of {report.model}: {samples} in {batches}, loss {report.loss:.4g}"


def _body(rows: Sequence[LayerRow]) -> list[str]:
    """Return the aligned lines; if a layer could not be measured, the reason follows its name."""
    measured = [row for row in rows if row.failure is None]
    columns = [
        (heading, cell) for heading, cell in _NUMBERS if any(cell(row) != "-" for row in measured)
    ]
    heads = ["layer", "type", "d x m", *(heading for heading, _ in columns)]
    lines = {id(row): [*_name(row), *(cell(row) for _, cell in columns)] for row in measured}
    everyone = [heads[:3], *map(_name, rows), *lines.values(), heads]
    # famseg.messages.text_table cannot replace the numbers of a failed layer by a reason.
    widths = [
        max(len(line[index]) for line in everyone if index < len(line))
        for index in range(len(heads))
    ]

    def aligned(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if head in _LEFT else cell.rjust(width)
            for cell, head, width in zip(cells, heads, widths, strict=False)
        )
        return "  ".join(padded).rstrip()

    return [
        aligned(heads),
        *(
            aligned(lines[id(row)])
            if row.failure is None
            else f"{aligned(_name(row))}  not measured: {row.failure}"
            for row in rows
        ),
    ]


def _name(row: LayerRow) -> list[str]:
    groups = f" in {row.groups} groups" if row.groups > 1 else ""
    return [row.name or "(the model)", row.kind, f"{row.d} x {row.m}{groups}"]


def _error_text(row: LayerRow) -> str:
    probes = f", {counted(row.probes, 'random probe')} each" if row.probes else ""
    if row.spread == "probes":
        return f"s.e. over {row.replicates} random probes on the one batch"
    if row.spread is None:
        return "no s.e.: a single value"
    return f"s.e. over {row.replicates} {row.spread}{probes}"


def _grouped(rows: Iterable[LayerRow], text: Callable[[LayerRow], str]) -> list[str]:
    """Return one line for each text; if there are several, with the layers that each is about."""
    holders: dict[str, list[str]] = {}
    for row in rows:
        if line := text(row):
            holders.setdefault(line, []).append(row.name)
    if len(holders) == 1:
        return list(holders)
    return [
        f"{line} ({', '.join(names) if len(names) <= _NAMED else f'{len(names)} layers'})"
        for line, names in holders.items()
    ]


def _rescaling(rows: Sequence[RescalingRow]) -> list[str]:
    if not rows:
        return []
    worst = max(rows, key=lambda row: row.kappa_change)
    factors = [row.trace_factor for row in rows if row.trace_factor is not None]
    most = f" at most, in {worst.name!r}" if worst.kappa_change and len(rows) > 1 else ""
    lines = [
        f"Rescaling check: {counted(len(rows), 'layer')}, each times {rows[0].factor:g} with its "
        f"inputs divided by {rows[0].factor:g}; the network computes the same function.",
        f"kappa changed by {worst.kappa_change:.1g} (relative{most}), Tr(H) by {_range(factors)}.",
    ]
    if not worst.kappa_change < 1e-3:
        lines.append(
            "! kappa changed: rounding in this precision is not small compared with it. Measure "
            "in float64."
        )
    return lines


def _range(factors: Sequence[float]) -> str:
    if not factors:
        return "an unknown factor"
    low, high = f"{min(factors):.4g}", f"{max(factors):.4g}"
    return f"a factor {low}" if low == high else f"factors {low} to {high}"


def counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
