"""Figures of a classifier: reliability diagrams, confusion matrix, single predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from famseg.evaluation.classification._summary import sets_of
from famseg.figures import BLUE, GRAY, new_figure, styled

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_SKY = "#9BCDEB"  # a light sky blue, next to the palette's blue
_RIGHT, _WRONG = (0, 114, 178), (213, 94, 0)
_INCHES = 4.2
# With more classes than these, a matrix has no space for names, or for numbers.
_NAMED, _NUMBERED = 40, 12
_TILE, _CAPTION = 96, 30


@styled()
def classification_figure(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], *, classes: Sequence[str]
) -> Figure:
    """Draw the reliability diagram of each set and the confusion matrix of the first one.

    Args:
        rows: As ``classification_rows`` makes them, with ``set`` added.
        summary: The aggregates of them, see ``summarize_classes``.
        classes: Names of the classes.
    """
    sets = list(sets_of(summary))
    figure = new_figure((len(sets) + 1.25) * _INCHES, _INCHES)
    axes = figure.subplots(1, len(sets) + 1, width_ratios=[*[1] * len(sets), 1.25], squeeze=False)
    for place, (name, part) in zip(axes[0], sets, strict=False):
        _draw_reliability(place, name, part)
    name = sets[0][0]
    matrix = confusion_matrix([row for row in rows if row["set"] == name], len(classes))
    _draw_confusion(axes[0, -1], name, matrix, sets[0][1]["per_class"])
    return figure


def confusion_matrix(rows: Sequence[Mapping[str, Any]], classes: int) -> npt.NDArray[np.int64]:
    """Return how often each class (row) got each prediction (column), shape ``(classes,) * 2``.

    Failed samples have no prediction and are not counted.

    Args:
        rows: Rows with ``label`` and ``prediction``.
        classes: Number of classes.

    Example:
        >>> confusion_matrix([{"label": 0, "prediction": 1}, {"label": 0, "prediction": -1}], 2)
        array([[0, 1],
               [0, 0]])
    """
    pairs = [(row["label"], row["prediction"]) for row in rows if row["prediction"] >= 0]
    matrix = np.zeros((classes, classes), dtype=np.int64)
    if pairs:
        np.add.at(matrix, tuple(np.array(pairs).T), 1)
    return matrix


def _draw_reliability(axes: Axes, name: str, part: Mapping[str, Any]) -> None:
    bins = [each for each in part["bins"] if each["n"]]
    left, width = [each["low"] for each in bins], part["bins"][0]["high"]
    accuracy = [each["accuracy"] for each in bins]
    bars = {"width": width, "align": "edge"}
    axes.bar(left, accuracy, color=_SKY, edgecolor="white", label="accuracy", **bars)
    share = [each["n"] / part["n"] for each in bins]
    axes.bar(left, share, color=GRAY, edgecolor="white", label="share of samples", **bars)
    confidence = [each["confidence"] for each in bins]
    axes.plot(confidence, accuracy, "o", color=BLUE, markersize=4, label="accuracy, confidence")
    axes.plot([0, 1], [0, 1], "--", color="black", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set(xlabel="confidence (largest probability)", ylabel="accuracy, or share of samples")
    axes.set_title(
        f"{name}: n = {part['n']}, accuracy {part['accuracy']['mean']:.3f}, ECE {part['ece']:.3f}",
        fontsize=9,
    )
    axes.legend(loc="upper left", fontsize=7)


def _draw_confusion(
    axes: Axes, name: str, matrix: npt.NDArray[np.int64], per_class: Mapping[str, Any]
) -> None:
    # Relative to all samples of a class, including failed ones, so that the diagonal is its
    # accuracy.
    totals = np.array([max(1, each["n"]) for each in per_class.values()])
    percent: Floats = 100 * matrix / totals[:, None]
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
    axes.grid(visible=False)
    axes.set(xlabel="predicted class", ylabel="reference class")
    n = sum(each["n"] for each in per_class.values())
    axes.set_title(f"{name}: predictions in % of each class, n = {n}", fontsize=9)
    size = len(matrix)
    if size <= _NAMED:
        fontsize = 7 if size <= _NUMBERED else 5
        axes.set_xticks(range(size), list(per_class), rotation=90, fontsize=fontsize)
        axes.set_yticks(range(size), list(per_class), fontsize=fontsize)
    if size <= _NUMBERED:
        middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6}
        for row, column in zip(*np.nonzero(matrix), strict=True):
            value = percent[row, column]
            color = "white" if value > 50 else "black"
            axes.text(column, row, f"{value:.0f}", color=color, **middle)


@dataclass(frozen=True)
class Answer:
    """One tile of ``answers_image``.

    Args:
        pixels: The image, uint8 of shape ``(c, h, w)``, c 1 or 3.
        truth: Name of its class.
        prediction: Name of the predicted class.
        confidence: Confidence of the prediction, from 0 to 1.
    """

    pixels: Pixels
    truth: str
    prediction: str
    confidence: float


def answers_image(answers: Sequence[Answer], *, columns: int = 8) -> Pixels:
    """Draw images with their answers: right ones with a blue frame, wrong ones with a red one.

    Args:
        answers: The predictions to draw, at least one.
        columns: Tiles a row.

    Returns:
        An RGB image of shape ``(h, w, 3)``. Below each tile are the prediction with its
        confidence
        in percent and, where it is wrong, the truth.

    Raises:
        ValueError: If there is no prediction.
    """
    if not answers:
        raise ValueError("there is no prediction to draw: give at least one.")
    height = -(-len(answers) // columns) * (_TILE + _CAPTION)
    sheet = Image.new("RGB", (min(columns, len(answers)) * _TILE, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for number, answer in enumerate(answers):
        row, column = divmod(number, columns)
        x, y = column * _TILE, row * (_TILE + _CAPTION)
        right = answer.prediction == answer.truth
        color = _RIGHT if right else _WRONG
        draw.rectangle((x + 1, y + 1, x + _TILE - 2, y + _TILE - 2), fill=color)
        sheet.paste(_tile(answer.pixels, _TILE - 8), (x + 4, y + 4))
        lines = [f"{answer.prediction} {100 * answer.confidence:.0f} %"]
        lines += [] if right else [f"truth: {answer.truth}"]
        for number_of_line, line in enumerate(lines):
            text = _fitting(line, font, _TILE - 4)
            draw.text((x + 3, y + _TILE + 14 * number_of_line), text, fill=color, font=font)
    return np.asarray(sheet)


def _tile(pixels: Pixels, size: int) -> Image.Image:
    channels = np.moveaxis(pixels, 0, -1)
    picture = Image.fromarray(channels[..., 0] if channels.shape[-1] == 1 else channels)
    return picture.convert("RGB").resize((size, size), Image.Resampling.NEAREST)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    while font.getlength(text) > width and len(text) > 1:
        text = text[:-1]
    return text
