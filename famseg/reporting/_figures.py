"""Figures of a report: one style, colors that every eye tells apart, SVG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

History = Sequence[Mapping[str, float | None]]

# Okabe and Ito's palette, without its yellow, which is faint on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_STYLE: dict[Any, Any] = {  # matplotlib lists the names of its settings one by one
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": "cycler('color', [" + ", ".join(f"'{c}'" for c in PALETTE) + "])",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 110,
    "font.size": 10,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",  # text stays text: small, and it can be searched
    "svg.hashsalt": "famseg",  # the same figure has the same bytes
    "text.parse_math": False,  # a name with dollars is no formula
}
_SIZE = (5.4, 3.3)  # inches
_ENDS = ("_std", "_low", "_high", "_seconds")


def curves(history: History, names: Sequence[str], label: str) -> bytes | None:
    """Draw series over the epochs.

    Args:
        history: One mapping an epoch, as in ``metrics.jsonl``.
        names: The series; those that no epoch has are left out.
        label: What the vertical axis shows, with its unit.

    Returns:
        The SVG file; None where there is no series.
    """
    series = {name: _points(history, name) for name in names}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    with drawing() as (figure, axes):
        for name, points in series.items():
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, label=name, marker="o" if len(points) < 30 else None, ms=3)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.legend()
        return _svg(figure)


def distributions(values: Mapping[str, Sequence[float]], label: str) -> bytes | None:
    """Draw every case as a point and the quartiles of each group as a box.

    Args:
        values: Values of the cases by group.
        label: What they are, with their unit.

    Returns:
        The SVG file; None where no group has a value.
    """
    groups = {name: list(each) for name, each in values.items() if len(each)}
    if not groups:
        return None
    with drawing() as (figure, axes):
        axes.boxplot(
            list(groups.values()), showfliers=False, widths=0.5, medianprops={"color": PALETTE[3]}
        )
        spread = np.random.default_rng(0)
        for place, each in enumerate(groups.values(), start=1):
            axes.scatter(
                place + spread.uniform(-0.16, 0.16, len(each)), each, s=14, alpha=0.7, zorder=3
            )
        names = [f"{name}\nn = {len(each)}" for name, each in groups.items()]
        axes.set_xticks(range(1, len(groups) + 1), names)
        axes.set_ylabel(label)
        axes.grid(visible=False, axis="x")
        return _svg(figure)


@contextmanager
def drawing() -> Iterator[tuple[Figure, Axes]]:
    """Give a figure in the common style."""
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots()


def series_like(history: History, start: str) -> list[str]:
    """Return the names of series that begin with a word, without spreads and times, in order."""
    names = dict.fromkeys(name for row in history for name in row if name.startswith(start))
    return [name for name in names if not name.endswith(_ENDS)]


def _points(history: History, name: str) -> list[tuple[float, float]]:
    return [
        (float(row["epoch"] or 0), float(value))
        for row in history
        if (value := row.get(name)) is not None
    ]


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "famseg"})
    return file.getvalue()
