"""Figures of a comparison: metrics by lambda and by group, paired differences, kappa and gap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from famseg.figures import BLACK, GRAY, PALETTE, RED, encode, new_figure, styled
from famseg.reporting._gap import Gaps
from famseg.reporting._pairs import Difference

_WIDTH, _HEIGHT = 5.4, 3.5  # inches
_ROW = 0.42  # inches per group
_LONGEST_NAME = 34
_MARKERS = "os^DvP*X"
_TINY = 1e-300


@dataclass(frozen=True)
class Level:
    """A metric of a group.

    Attributes:
        values: One per run.
        mean: Their mean.
        low: Lower end of the mean's interval; None for one run.
        high: Upper end.
        weight: Lambda; None if the group has no position on that axis.
    """

    values: Sequence[float]
    mean: float
    low: float | None
    high: float | None
    weight: float | None = None


def over_lambda(series: Mapping[str, Sequence[Level]], label: str) -> bytes:
    """Draw a metric against lambda on a logarithmic axis with a separate position for lambda 0.

    Since 0 has no logarithm, it is to the left of a break in the axis.

    Args:
        series: Levels by kind of penalty, those with lambda 0 first.
        label: The name of the metric with its unit.

    Returns:
        The SVG file.
    """
    weights = sorted({each.weight or 0.0 for levels in series.values() for each in levels})
    place = lambda_places(weights)
    with styled():
        figure = new_figure(_WIDTH, _HEIGHT)
        axes = figure.subplots()
        for number, (name, levels) in enumerate(series.items()):
            ordered = sorted(levels, key=lambda each: each.weight or 0.0)
            color, marker = PALETTE[number % len(PALETTE)], _MARKERS[number % len(_MARKERS)]
            shift = (number - (len(series) - 1) / 2) * 0.06
            _draw_levels(axes, ordered, place, shift, color, marker, name)
        counts = _runs_at(series)
        ticks = [f"{weight:g}\nn = {counts[weight]}" for weight in weights]
        axes.set_xticks([place[weight] for weight in weights], ticks)
        axes.minorticks_off()
        if weights[0] == 0 and len(weights) > 1:
            _draw_break(axes, (place[0.0] + place[weights[1]]) / 2)
        axes.set_xlabel("lambda (weight of the penalty), logarithmic; n: runs")
        axes.set_ylabel(label)
        axes.grid(visible=False, axis="x")
        axes.legend()
        return encode(figure, "svg")


def lambda_places(weights: Sequence[float]) -> dict[float, float]:
    """Return the position of each lambda: its decimal logarithm, and a separate one for 0.

    Args:
        weights: Lambdas in increasing order.

    Example:
        >>> lambda_places([0.0, 0.01, 1.0])
        {0.0: -3.0, 0.01: -2.0, 1.0: 0.0}
    """
    logs = {weight: math.log10(weight) for weight in weights if weight > 0}
    places = {}
    if weights and weights[0] == 0:
        span = max(logs.values()) - min(logs.values()) if logs else 0.0
        places[0.0] = (min(logs.values()) if logs else 0.0) - max(0.5, span / 2)
    return places | logs


def _runs_at(series: Mapping[str, Sequence[Level]]) -> dict[float, str]:
    """Return the number of runs for each lambda; the baseline is the same group in every series."""
    found: dict[float, set[int]] = {}
    for levels in series.values():
        for each in levels:
            found.setdefault(each.weight or 0.0, set()).add(len(each.values))
    return {weight: ", ".join(map(str, sorted(counts))) for weight, counts in found.items()}


def _draw_levels(
    axes: Axes,
    levels: Sequence[Level],
    place: Mapping[float, float],
    shift: float,
    color: str,
    marker: str,
    name: str,
) -> None:
    for each in levels:
        x = place[each.weight or 0.0] + shift
        axes.plot([x] * len(each.values), each.values, ".", color=color, alpha=0.45, markersize=6)
        if each.low is not None and each.high is not None:
            axes.plot([x, x], [each.low, each.high], color=color, linewidth=1.4)
    penalized = [each for each in levels if each.weight]
    at = [place[each.weight or 0.0] + shift for each in penalized]
    axes.plot(at, [each.mean for each in penalized], "-", color=color, linewidth=1.2)
    at = [place[each.weight or 0.0] + shift for each in levels]
    means = [each.mean for each in levels]
    label = f"{name}: mean, 95 % interval, runs"
    axes.plot(at, means, marker, color=color, markersize=6, label=label)


def _draw_break(axes: Axes, x: float) -> None:
    """Mark a break in the horizontal axis."""
    axes.axvline(x, color=GRAY, linewidth=0.8, linestyle=":")
    text = axes.text(x, 0, "//", transform=axes.get_xaxis_transform(), color=BLACK)
    text.set(ha="center", va="center", fontsize=11, backgroundcolor="white", zorder=10)
    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})


def by_group(groups: Mapping[str, Level], label: str) -> bytes:
    """Draw a metric of every group: each run, the mean and its interval.

    Args:
        groups: The levels by name, the first at the top.
        label: The name of the metric with its unit.

    Returns:
        The SVG file.
    """
    with styled():
        figure, axes = _rows([f"{name}, n = {len(e.values)}" for name, e in groups.items()])
        for row, each in enumerate(groups.values()):
            axes.plot(each.values, [row] * len(each.values), ".", color=GRAY, markersize=7)
            if each.low is not None and each.high is not None:
                axes.plot([each.low, each.high], [row, row], color=PALETTE[0])
            axes.plot([each.mean], [row], "D", color=PALETTE[0], markersize=6)
        figure.supxlabel(
            f"{label}\ndiamond and line: mean and 95 % interval; points: runs", fontsize=9
        )
        return encode(figure, "svg")


def pair_differences(
    groups: Mapping[str, tuple[Sequence[Difference], float, float | None, float | None]],
    label: str,
    pair: str,
) -> bytes:
    """Draw the difference to the baseline of every pair, with mean and interval.

    Args:
        groups: Pairs by name, with their mean and the limits of its interval.
        label: The name of the difference with its unit.
        pair: Name of the unit of a pair in the singular.

    Returns:
        The SVG file.
    """
    names = []
    for name, (pairs, *_) in groups.items():
        failed = sum(each.failed for each in pairs)
        names.append(f"{name}, n = {len(pairs)}" + (f", failed {failed}" if failed else ""))
    spread = np.random.default_rng(0)
    with styled():
        figure, axes = _rows(names)
        axes.axvline(0, color=BLACK, linewidth=0.9)
        for row, (pairs, mean, low, high) in enumerate(groups.values()):
            places = row + spread.uniform(-0.18, 0.18, len(pairs))
            for failed, color in ((False, GRAY), (True, RED)):
                shown = [i for i, each in enumerate(pairs) if each.failed == failed]
                marker = "x" if failed else "."
                values = [pairs[i].value for i in shown]
                axes.plot(values, places[shown], marker, alpha=0.8, markersize=6, color=color)
            if low is not None and high is not None:
                axes.plot([low, high], [row, row], color=PALETTE[0], linewidth=2.2)
            axes.plot([mean], [row], "D", color=PALETTE[0], markersize=6)
        failures = "; red crosses: failed cases" if any("failed" in name for name in names) else ""
        figure.supxlabel(
            f"difference to the baseline in {label}\n"
            f"points: {pair}s; diamond and line: mean and 95 % interval{failures}",
            fontsize=9,
        )
        return encode(figure, "svg")


def _rows(names: Sequence[str]) -> tuple[Figure, Axes]:
    figure = new_figure(_WIDTH, 1.1 + _ROW * len(names))
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), [_wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=5)
    return figure, axes


def _wrapped(name: str) -> str:
    """Return a long name in two lines, truncated beyond these."""
    if len(name) <= _LONGEST_NAME:
        return name
    place = name.rfind(" ", 0, _LONGEST_NAME + 1)
    first, rest = (name[:place], name[place + 1 :]) if place > 0 else (name[:34], name[34:])
    return f"{first}\n{rest if len(rest) <= _LONGEST_NAME else rest[: _LONGEST_NAME - 1] + '…'}"


def kappa_and_gap(found: Gaps) -> bytes:
    """Draw the generalization gap of each run against its kappa.

    Args:
        found: The points by group.

    Returns:
        The SVG file.
    """
    with styled():
        figure = new_figure(_WIDTH, _HEIGHT)
        axes = figure.subplots()
        for number, (name, points) in enumerate(found.points.items()):
            axes.plot(
                [point.kappa for point in points],
                [point.gap for point in points],
                _MARKERS[number % len(_MARKERS)],
                color=PALETTE[number % len(PALETTE)],
                markersize=6,
                label=f"{_cut(name)}, n = {len(points)}",
            )
        every = [point for points in found.points.values() for point in points]
        _scale_kappa(axes, [point.kappa for point in every])
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.set_xlabel(f"{found.kappa}\n(unit of the loss)")
        axes.set_ylabel(f"generalization gap\n{found.gap}")
        figure.legend(loc="outside lower center", ncols=2 if len(found.points) > 1 else 1)
        return encode(figure, "svg")


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _scale_kappa(axes: Axes, values: Sequence[float]) -> None:
    """Use a logarithmic scale if all values are positive and differ by more than a factor of 10."""
    if min(values) > _TINY and max(values) > 10 * min(values):
        axes.set_xscale("log")


def course_figure(found: Gaps, best: str | None) -> bytes:
    """Draw kappa against the gap over the epochs of a run.

    Args:
        found: The points of one run, in the order of the epochs.
        best: The epoch whose weights were evaluated; None if it is not known.

    Returns:
        The SVG file.
    """
    (points,) = found.points.values()
    with styled():
        figure = new_figure(_WIDTH, _HEIGHT)
        axes = figure.subplots()
        kappas, gaps = [p.kappa for p in points], [p.gap for p in points]
        axes.plot(kappas, gaps, "-", color=GRAY, linewidth=0.8)
        epochs = [float(p.name) for p in points]
        drawn = axes.scatter(kappas, gaps, c=epochs, cmap="viridis", s=26, zorder=3)
        if len(points) > 1:
            figure.colorbar(drawn, ax=axes, label="epoch")
        for number in sorted({0, len(points) - 1}):
            text = f"epoch {points[number].name}"
            place = (kappas[number], gaps[number])
            axes.annotate(text, place, xytext=(4, 5), textcoords="offset points", fontsize=8)
        for point in points:
            if point.name == best:
                (ring,) = axes.plot([point.kappa], [point.gap], "o", markersize=11)
                ring.set(markerfacecolor="none", markeredgecolor=RED)
                ring.set_label(f"evaluated: epoch {best}")
                axes.legend()
        _scale_kappa(axes, kappas)
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.set_xlabel(f"{found.kappa}\n(unit of the loss)")
        axes.set_ylabel(f"generalization gap\n{found.gap}")
        return encode(figure, "svg")
