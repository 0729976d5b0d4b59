"""A flatness report as an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from famseg.figures import BLUE, GRAY, RED, Kind, encode, new_figure, styled
from famseg.flatness._errors import FlatnessError
from famseg.flatness._measurement._table import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from famseg.flatness._measurement._rows import Report

_BEFORE, _AFTER = BLUE, RED
_SHOWN = 40  # characters of a layer's name
_TICKS = 6
_DECADES = 4  # below the largest value, for a scale that includes zero


def image(report: Report, kind: Kind = "png") -> bytes:
    """Return the plot of a report as a file; see `Report.plot`.

    Raises:
        FlatnessError: If matplotlib is missing.
    """
    try:
        with styled():
            return encode(_drawn(report), kind)
    except ImportError as error:
        raise FlatnessError(
            "a plot needs matplotlib, which is not installed. Run: pip install matplotlib"
        ) from error


def _drawn(report: Report) -> Figure:
    figure = new_figure(10, 2.0 + 0.27 * len(report.rows))
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(
        left,
        {row.name: (row.kappa, row.kappa_error) for row in report.rows},
        {check.name: check.kappa_factor for check in report.rescaling},
    )
    _draw(
        right,
        {row.name: (row.trace, _trace_error(row)) for row in report.rows},
        {check.name: check.trace_factor for check in report.rescaling},
    )
    left.set_xlabel("kappa (unit of the loss)")
    right.set_xlabel("Tr(H) (per squared weight)")
    _name_layers(left, report)
    _legend(figure, left, report)
    n = counted(report.samples, "sample")
    figure.suptitle(f"Relative flatness of {report.model}: n = {n}, loss {report.loss:.4g}")
    return figure


def _trace_error(row: Any) -> float | None:  # noqa: ANN401
    if row.simplified_error is None or not row.norm_squared:
        return None
    error: float = row.simplified_error / row.norm_squared
    return error


def _draw(
    axes: Any,  # noqa: ANN401  # matplotlib is optional
    measured: Mapping[str, tuple[float | None, float | None]],
    factors: Mapping[str, float | None],
) -> None:
    """Draw one value per layer, with its standard error and its value after rescaling."""
    places = {name: place for place, name in enumerate(measured)}
    known = [
        (value, error or 0.0, places[name])
        for name, (value, error) in measured.items()
        if value is not None
    ]
    after = [
        (value * factor, places[name])
        for name, (value, _) in measured.items()
        if value is not None and (factor := factors.get(name)) is not None
    ]
    values = [value for value, _, _ in known]
    _scale(axes, [*values, *(value for value, _ in after)])
    axes.errorbar(
        values,
        [place for _, _, place in known],
        xerr=[error for _, error, _ in known],
        fmt="o",
        color=_BEFORE,
        capsize=3,
        markersize=5,
    )
    axes.plot(
        [value for value, _ in after],
        [place for _, place in after],
        "o",
        markerfacecolor="none",
        markeredgecolor=_AFTER,
        markersize=10,
    )


def _scale(axes: Any, values: Sequence[float]) -> None:  # noqa: ANN401
    """Set a logarithmic scale if all values are positive, else one that is linear around zero."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if not sizes:
        return
    if all(value > 0 for value in values):
        # A standard error that reaches zero is extended to the edge.
        axes.set_xscale("log", nonpositive="clip")
        axes.set_xlim(min(sizes) / 3, max(sizes) * 3)
        return
    linear = max(min(sizes), max(sizes) / 10**_DECADES)
    axes.set_xscale("symlog", linthresh=linear)
    axes.xaxis.get_major_locator().set_params(numticks=_TICKS)
    axes.axvline(0, color=GRAY, linewidth=0.8)


def _name_layers(axes: Any, report: Report) -> None:  # noqa: ANN401
    names = [row.name or "(the model)" for row in report.rows]
    short = [name if len(name) <= _SHOWN else f"...{name[3 - _SHOWN :]}" for name in names]
    axes.set_yticks(range(len(names)), short, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    labels = axes.get_yticklabels()
    for place, row in enumerate(report.rows):
        if row.failure is None:
            continue
        labels[place].set_color(GRAY)
        text = axes.text(0.5, place, "not measured", transform=axes.get_yaxis_transform())
        text.set(color=GRAY, fontsize=8, ha="center", va="center")


def _legend(figure: Any, axes: Any, report: Report) -> None:  # noqa: ANN401
    handles = [axes.containers[0], *(axes.lines[-1:] if report.rescaling else ())]
    labels = ["measured, with standard error"]
    if report.rescaling:
        factor = f"{report.rescaling[0].factor:g}"
        labels.append(f"layer times {factor}, its inputs divided by {factor}: the same function")
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
