"""The history of a training as an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from famseg.figures import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Kind,
    encode,
    new_figure,
    styled,
)
from famseg.flatness._errors import FlatnessError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from famseg.flatness._measurement._history import HistoryPoint

_COLORS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)  # adjacent colors differ clearly
_SPAN = 10  # ratio of values above which the scale is logarithmic
_Draw = Callable[[Any, Sequence["HistoryPoint"]], None]
_NAMED = len(_COLORS)  # number of layers in the legend; others are drawn without a name


def image(points: Sequence[HistoryPoint], kind: Kind = "png") -> bytes:
    """Return the plot of a history as a file; see `FlatnessHistory.plot`.

    Raises:
        FlatnessError: If there is nothing to draw, or if matplotlib is missing.
    """
    finite = [point for point in points if math.isfinite(point.value)]
    panels = [
        (draw, chosen)
        for draw, quantities in (
            (_draw_kappa, {"kappa"}),
            (_draw_robustness, {"feature_robustness", "predicted_robustness"}),
            (_draw_losses, {"training_loss", "validation_loss"}),
        )
        if (chosen := [point for point in finite if point.quantity in quantities])
    ]
    if not panels:
        raise FlatnessError("the history contains nothing to draw. Add a measurement first.")
    try:
        with styled():
            return encode(_drawn(panels), kind)
    except ImportError as error:
        raise FlatnessError(
            "a plot needs matplotlib, which is not installed. Run: pip install matplotlib"
        ) from error


def _drawn(panels: Sequence[tuple[_Draw, Sequence[HistoryPoint]]]) -> Figure:
    figure = new_figure(8, 0.6 + 2.5 * len(panels))
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (draw, chosen) in zip(every, panels, strict=True):
        draw(axes, chosen)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="best")
    every[-1].set_xlabel("step")
    return figure


def _draw_kappa(axes: Any, points: Sequence[HistoryPoint]) -> None:  # noqa: ANN401  # matplotlib is optional
    for number, ((layer, _), series) in enumerate(_series(points)):
        _line(axes, series, number, label=f"layer {layer}" if layer else "")
    axes.set_ylabel("kappa, unit of the loss\n(band: standard error)")
    _scale(axes, points)


def _draw_robustness(axes: Any, points: Sequence[HistoryPoint]) -> None:  # noqa: ANN401
    predicted = dict(_series(p for p in points if p.quantity == "predicted_robustness"))
    measured = _series(p for p in points if p.quantity == "feature_robustness")
    for number, (name, series) in enumerate(measured):
        layer, delta = name
        label = f"layer {layer}, delta {delta:g}" if layer else f"delta {delta:g}"
        _line(axes, series, number, label=label)
        if name in predicted:
            label = "" if number else "predicted by kappa"
            _line(axes, predicted[name], number, label=label, style="--")
    axes.set_ylabel("rise of the loss under\nperturbed features\n(band: confidence interval)")
    _scale(axes, points)


def _draw_losses(axes: Any, points: Sequence[HistoryPoint]) -> None:  # noqa: ANN401
    training = {p.step: p.value for p in points if p.quantity == "training_loss"}
    validation = {p.step: p.value for p in points if p.quantity == "validation_loss"}
    for number, (label, losses) in enumerate(
        {"training": training, "validation": validation}.items()
    ):
        steps = sorted(losses)
        if steps:
            values = [losses[step] for step in steps]
            axes.plot(steps, values, "o-", markersize=3, color=_COLORS[number], label=label)
    both = sorted(training.keys() & validation.keys())
    if both:
        ends = [training[step] for step in both], [validation[step] for step in both]
        axes.fill_between(both, *ends, color=GRAY, alpha=0.25, linewidth=0, label="gap")
    axes.set_ylabel("loss")
    _scale(axes, points)


_Name = tuple[str, float | None]  # layer and delta


def _series(points: Iterable[HistoryPoint]) -> list[tuple[_Name, list[HistoryPoint]]]:
    """Return the points of each layer and delta, in the order of their steps."""
    series: dict[_Name, list[HistoryPoint]] = {}
    for point in points:
        series.setdefault((point.layer, point.delta), []).append(point)
    return [(name, sorted(of, key=lambda point: point.step)) for name, of in series.items()]


def _line(
    axes: Any,  # noqa: ANN401
    points: Sequence[HistoryPoint],
    number: int,
    *,
    label: str,
    style: str = "o-",
) -> None:
    """Draw values, with a band if they have an interval."""
    steps, color = [point.step for point in points], _COLORS[number % len(_COLORS)]
    named = label if number < _NAMED else ""
    values = [point.value for point in points]
    axes.plot(steps, values, style, markersize=3, color=color, label=named or "_unnamed")
    if all(point.low is None for point in points):
        return
    low = [math.nan if point.low is None else point.low for point in points]
    high = [math.nan if point.high is None else point.high for point in points]
    axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)


def _scale(axes: Any, points: Sequence[HistoryPoint]) -> None:  # noqa: ANN401
    """Use a logarithmic scale if all values are positive and far apart; else mark zero."""
    values = [point.value for point in points]
    low, high = min(values), max(values)
    if low > 0:
        if high > _SPAN * low:
            # A band that reaches zero is extended to the edge.
            axes.set_yscale("log", nonpositive="clip")
            axes.set_ylim(low / 1.5, high * 1.5)
        return
    axes.axhline(0, color=GRAY, linewidth=0.8)
