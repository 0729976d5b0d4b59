"""Figures of a report, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from famseg.figures import PALETTE, encode, new_figure, styled

History = Sequence[Mapping[str, float | None]]

_SIZE = (5.4, 3.3)  # inches
_ENDS = ("_std", "_low", "_high", "_seconds")


def curves(history: History, names: Mapping[str, str], label: str) -> bytes | None:
    """Draw series over the epochs.

    Args:
        history: One mapping per epoch, as in ``metrics.jsonl``.
        names: The series by their names in the legend; those without data are left out.
        label: The label of the vertical axis, with its unit.

    Returns:
        The SVG file; None if there is no series.
    """
    series = {shown: _points(history, name) for shown, name in names.items()}
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
    """Draw every case as a point, and the quartiles of each group as a box.

    Args:
        values: Values of the cases by group.
        label: Name of the values with their unit.

    Returns:
        The SVG file; None if no group has a value.
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
    """Provide a figure in the common style."""
    with styled():
        figure = new_figure(*_SIZE)
        yield figure, figure.subplots()


def series_like(history: History, start: str) -> list[str]:
    """Return the sorted names of series that begin with a word, without spreads and times."""
    names = dict.fromkeys(name for row in history for name in row if name.startswith(start))
    return [name for name in names if not name.endswith(_ENDS)]


def _points(history: History, name: str) -> list[tuple[float, float]]:
    return [
        (float(row["epoch"] or 0), float(value))
        for row in history
        if (value := row.get(name)) is not None
    ]


def _svg(figure: Figure) -> bytes:
    return encode(figure, "svg")
