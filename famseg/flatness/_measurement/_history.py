"""Flatness, feature robustness and losses in the course of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from famseg.figures import Kind
from famseg.flatness._errors import FlatnessError
from famseg.flatness._measurement._history_plot import image
from famseg.flatness._measurement._robustness import FeatureRobustness
from famseg.flatness._measurement._rows import Report
from famseg.flatness._terms import Measurement

HistoryQuantity = Literal[
    "kappa", "feature_robustness", "predicted_robustness", "training_loss", "validation_loss"
]
Measured: TypeAlias = Report | Measurement | FeatureRobustness


@dataclass(frozen=True)
class HistoryPoint:
    """One number at one step of a training.

    Attributes:
        step: The step or epoch.
        quantity: Its name. ``"predicted_robustness"`` is the prediction of kappa for
            ``"feature_robustness"``.
        layer: Name of the layer; empty for losses.
        value: The number, in the unit of the loss.
        low: Lower end of its interval: kappa minus its standard error, or the confidence limit of
            the robustness; ``None`` if unknown.
        high: Upper end.
        delta: Size of the perturbation for a robustness; else ``None``.
    """

    step: float
    quantity: HistoryQuantity
    layer: str
    value: float
    low: float | None = None
    high: float | None = None
    delta: float | None = None


class FlatnessHistory:
    """The results of `report`, `FAM.measure` and `feature_robustness` in the course of a training.

    It records plain numbers and draws them over the steps, one below the other: kappa of each layer
    with its standard error, feature robustness with its interval and the prediction of kappa, and
    the losses with the gap between them. It does not measure anything itself, so you choose how
    often to measure.

    Args:
        records: What `records` returned, to continue after an interrupted training.

    Attributes:
        points: The numbers, in the order in which they were added.

    Example:
        >>> import torch
        >>> from famseg.flatness import FAM
        >>> _ = torch.manual_seed(0)
        >>> objective = FAM(
        ...     torch.nn.Linear(4, 3), layer="", loss=torch.nn.CrossEntropyLoss(), weight=0.1
        ... )
        >>> inputs, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> history = FlatnessHistory()
        >>> for epoch in range(2):
        ...     measured = objective.measure(inputs, targets)
        ...     history.add(epoch, measured, training_loss=measured.loss.item())
        >>> [(point.step, point.quantity) for point in history.points]
        [(0, 'kappa'), (0, 'training_loss'), (1, 'kappa'), (1, 'training_loss')]
    """

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self.points = [_read(record) for record in records]

    def add(
        self,
        step: float,
        *measured: Measured,
        layer: str = "",
        training_loss: float | None = None,
        validation_loss: float | None = None,
    ) -> None:
        """Add the results at a step. Results may be added to a step several times.

        Args:
            step: The step or epoch, the horizontal axis of plots.
            *measured: Reports, from which each layer's kappa is taken; measurements; robustness.
            layer: Name of the layer, which measurements and robustness do not contain.
            training_loss: Mean loss on the training data.
            validation_loss: Mean loss on other data.

        Raises:
            FlatnessError: If there is nothing to add, or an object of another type.
        """
        losses = {"training_loss": training_loss, "validation_loss": validation_loss}
        found = [point for each in measured for point in _points(step, each, layer)]
        for quantity, value in losses.items():
            if value is not None:
                found.append(HistoryPoint(step, quantity, "", float(value)))  # type: ignore[arg-type]
        if not (measured or found):
            raise FlatnessError(
                f"there is nothing to add at step {step}: give a report, a measurement, a "
                "feature robustness or a loss."
            )
        self.points += found

    def records(self) -> list[dict[str, Any]]:
        """Return one flat mapping per point, for JSON, a CSV file or a data frame.

        A number that is not finite is ``None``, since JSON cannot represent it.
        """
        return [
            {key: None if _is_not_finite(value) else value for key, value in asdict(point).items()}
            for point in self.points
        ]

    def image(self, kind: Kind = "png") -> bytes:
        """Return the plot as a file; see `plot`.

        Args:
            kind: ``png``, or ``svg`` for papers.

        Raises:
            FlatnessError: If there is nothing to draw, or if matplotlib is missing.
        """
        return image(self.points, kind)

    def plot(self, path: str | Path) -> None:
        """Plot all numbers over the steps, except those that are not finite.

        Args:
            path: The file to write: SVG if it has this suffix, else PNG.

        Raises:
            FlatnessError: If there is nothing to draw, or if matplotlib is missing.
            OSError: If the file cannot be written.
        """
        kind: Kind = "svg" if Path(path).suffix.lower() == ".svg" else "png"
        Path(path).write_bytes(self.image(kind))


def _points(step: float, measured: object, layer: str) -> list[HistoryPoint]:
    if isinstance(measured, Report):
        return [
            _kappa(step, row.name, row.kappa, row.kappa_error)
            for row in measured.rows
            if row.kappa is not None
        ]
    if isinstance(measured, Measurement):
        return [_kappa(step, layer, measured.kappa.item(), measured.standard_error.item())]
    if isinstance(measured, FeatureRobustness):
        delta = measured.delta
        found = [
            HistoryPoint(
                step, "feature_robustness", layer, measured.mean, measured.low, measured.high, delta
            )
        ]
        if measured.predicted is not None:
            predicted = measured.predicted
            found.append(HistoryPoint(step, "predicted_robustness", layer, predicted, delta=delta))
        return found
    raise FlatnessError(
        f"a {type(measured).__name__} cannot be added. Give the result of report, "
        "FAM.measure or feature_robustness."
    )


def _read(record: Mapping[str, Any]) -> HistoryPoint:
    value = math.nan if record["value"] is None else record["value"]
    return HistoryPoint(**{**record, "value": value})


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _kappa(step: float, layer: str, value: float, error: float | None) -> HistoryPoint:
    if error is None or not math.isfinite(error):
        return HistoryPoint(step, "kappa", layer, value)
    return HistoryPoint(step, "kappa", layer, value, value - error, value + error)
