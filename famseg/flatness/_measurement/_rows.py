"""Content of a flatness report: one row of plain numbers per layer."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from famseg.figures import Kind
from famseg.flatness._measurement._plot import image
from famseg.flatness._measurement._spread import Spread
from famseg.flatness._measurement._table import table


@dataclass(frozen=True)
class LayerRow:
    r"""Flatness of one layer. A number is ``None`` where it was not requested or not found.

    With ``H`` the Hessian of the mean loss in the layer's weight ``W`` (rows ``w_s``). The values
    up to `max_eigenvalue` have the unit of the loss and stay when the layer is rescaled; `trace`
    and `largest_eigenvalue` are per squared weight and change with the scale of the layer.

    Attributes:
        name: Dotted name of the layer.
        kind: Its class, such as ``Conv3d``.
        d: Number of neurons: rows of ``W``.
        m: Inputs that each of them sees: columns of ``W``.
        groups: Groups of a convolution; its value is the sum over them.
        samples: Samples that it was measured on.
        kappa: Relative flatness, ``sum_st <w_s, w_t> Tr(H_st)``.
        kappa_error: Its standard error over what `spread` says.
        kappa_per_feature: ``kappa / m``, the convention of the authors' code.
        simplified: ``||W||_F^2 Tr(H)``.
        simplified_error: Its standard error.
        max_eigenvalue: ``sum_s ||w_s||^2 lambda_max(H_ss)``; over several batches see `report`.
        norm_squared: ``||W||_F^2``.
        trace: ``Tr(H)``; ``None`` for a layer of zeros.
        largest_eigenvalue: Largest eigenvalue of ``H``.
        spread: Units over which standard errors are taken; ``None`` where there is no spread.
        replicates: How many values that is.
        probes: Random probes of each value; 0 where the estimator is exact.
        estimator: How kappa was computed.
        reason: Why that way, in words.
        failure: Why the layer could not be measured; ``None`` if it was.
        notes: Faults of single numbers, one text each.
    """

    name: str
    kind: str
    d: int
    m: int
    groups: int = 1
    samples: int = 0
    kappa: float | None = None
    kappa_error: float | None = None
    kappa_per_feature: float | None = None
    simplified: float | None = None
    simplified_error: float | None = None
    max_eigenvalue: float | None = None
    norm_squared: float | None = None
    trace: float | None = None
    largest_eigenvalue: float | None = None
    spread: Spread | None = None
    replicates: int = 0
    probes: int = 0
    estimator: str | None = None
    reason: str | None = None
    failure: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RescalingRow:
    """One layer before and after its weight is multiplied and its inputs are divided by a factor.

    Both on the first batch with one probe, the same, where the estimator needs any: these numbers
    are for comparison with each other. The network computes the same.

    Attributes:
        name: Dotted name of the layer.
        factor: The factor.
        kappa: Relative flatness before.
        kappa_after: Relative flatness after: the same up to rounding.
        trace: ``Tr(H)`` before; ``None`` for a layer of zeros.
        trace_after: ``Tr(H)`` after: ``1 / factor**2`` of it.
    """

    name: str
    factor: float
    kappa: float
    kappa_after: float
    trace: float | None
    trace_after: float | None

    @property
    def kappa_change(self) -> float:
        """Relative change of kappa; 0 where it was and is 0."""
        moved = abs(self.kappa_after - self.kappa)
        return moved / abs(self.kappa) if self.kappa else (math.inf if moved else 0.0)

    @property
    def kappa_factor(self) -> float | None:
        """Factor by which kappa changed, 1 up to rounding; ``None`` where it was 0."""
        return self.kappa_after / self.kappa if self.kappa else None

    @property
    def trace_factor(self) -> float | None:
        """Factor by which the trace changed; ``None`` where it was 0 or unknown."""
        return self.trace_after / self.trace if self.trace and self.trace_after else None


@dataclass(frozen=True)
class Report:
    """Relative flatness of a model's layers; `str` gives a table.

    Attributes:
        model: Class of the model.
        samples: Number of samples.
        batches: Number of batches that they came in.
        loss: Mean loss over the samples.
        probes: Number of requested random probes.
        seed: Their seed.
        rows: One row a layer, in the order of their calls, those that could not be measured too.
        rescaling: One row for each layer that was measured; empty without the check.

    Example:
        >>> row = LayerRow("fc", "Linear", d=3, m=5, samples=8, kappa=0.5, kappa_per_feature=0.1)
        >>> found = Report("Net", samples=8, batches=1, loss=1.0, probes=1, seed=0, rows=(row,))
        >>> found["fc"].kappa
        0.5
        >>> print(found.table().splitlines()[0])
        Relative flatness of Net: 8 samples in 1 batch, loss 1
    """

    model: str
    samples: int
    batches: int
    loss: float
    probes: int
    seed: int
    rows: tuple[LayerRow, ...]
    rescaling: tuple[RescalingRow, ...] = ()

    def __getitem__(self, layer: str) -> LayerRow:
        """Return the row of a layer by name."""
        for row in self.rows:
            if row.name == layer:
                return row
        raise KeyError(f"{layer!r} is not in the report. It has: {[row.name for row in self.rows]}")

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Return an aligned table with definitions, units and the rescaling check."""
        return table(self)

    def to_dict(self) -> dict[str, Any]:
        """Return names and plain numbers that JSON can hold; ``None`` for what is unknown."""
        content = asdict(self)
        content["rescaling"] = [
            {**asdict(row), "kappa_change": row.kappa_change, "trace_factor": row.trace_factor}
            for row in self.rescaling
        ]
        plain: dict[str, Any] = _plain(content)
        return plain

    def to_json(self) -> str:
        """Return `to_dict` as JSON; not finite numbers are ``null``."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)

    def records(self) -> list[dict[str, Any]]:
        """Return one flat mapping a layer, for a CSV file or a data frame."""
        names = [field.name for field in fields(LayerRow)]
        flat = [{name: _plain(getattr(row, name)) for name in names} for row in self.rows]
        return [{**row, "notes": "; ".join(row["notes"])} for row in flat]

    def image(self, kind: Kind = "png") -> bytes:
        """Return the plot as a file; see `plot`.

        Args:
            kind: ``png``, or ``svg`` for papers.

        Raises:
            FlatnessError: If matplotlib is missing.
        """
        return image(self, kind)

    def plot(self, path: str | Path) -> None:
        """Draw kappa of each layer with its standard error next to the trace, both as rescaled.

        Args:
            path: The file to write: SVG where its name ends so, else PNG.

        Raises:
            FlatnessError: If matplotlib is missing.
            OSError: If the file cannot be written.
        """
        kind: Kind = "svg" if Path(path).suffix.lower() == ".svg" else "png"
        Path(path).write_bytes(self.image(kind))


def _plain(value: Any) -> Any:  # noqa: ANN401  # any value in a dataclass
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
