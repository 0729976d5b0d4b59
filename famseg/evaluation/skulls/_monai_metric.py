"""The metrics as a MONAI metric, for batches, means per epoch and several processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from famseg.engine import Processes
from famseg.metrics import SCORES, Empty, Kind, as_pair, measure

Reduction = Literal["mean", "mean_batch", "none"]
_Item = tuple[Tensor, Tensor, Sequence[float], Tensor | None]


class SkullMetric(CumulativeIterationMetric):  # type: ignore[misc]  # MONAI ships no types
    """One or several scores of ``famseg.metrics.score``, collected as MONAI's metrics do.

    It can be used in place of MONAI's metrics, also in ``IgniteMetricHandler``. It computes only
    the metrics that are named. Unlike MONAI's, it takes the spacing from the volumes and never
    assumes 1 mm, and a missed case counts with the worst value, in ``n`` and in ``failed``.

    With several processes each rank scores its own cases; their number may differ or be 0. Every
    rank must then call ``aggregate`` (or ``report``, ``get_buffer``, ``len``) and gets the values
    of all cases, the same as in a single process. A sampler that repeats cases to give each rank
    the same number changes the values: switch that off (``monai.data.DistributedSampler(...,
    even_divisible=False)``).

    Args:
        metric: A name of ``famseg.metrics.SCORES``, or several.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm; None for those of the
            reference's affine (``MetaTensor``), or given with each call.
        include_background: Whether the first channel is scored too: yes for a mask of one channel,
            no for one-hot label maps.
        kind: As in ``score``.
        tolerance_mm: As in ``score``.
        empty: As in ``score``; under ``nan`` a mean with an undefined case is NaN.
        reduction: The default of ``aggregate``.

    Raises:
        ValueError: If a name is unknown.

    Example:
        >>> metric = SkullMetric("hd_mm", spacing_mm=(1.0, 1.0, 2.0))
        >>> truth = torch.zeros(2, 1, 8, 8, 8)
        >>> truth[:, :, 2:6, 2:6, 2:5] = 1
        >>> metric(truth.roll(1, dims=-1), truth)
        tensor([[2.],
                [2.]], dtype=torch.float64)
        >>> metric(torch.zeros_like(truth[:1]), truth[:1])
        tensor([[19.5959]], dtype=torch.float64)
        >>> round(metric.aggregate().item(), 3), metric.report()["hd_mm"]["failed"]
        (7.865, 1)
    """

    def __init__(
        self,
        metric: str | Sequence[str],
        *,
        spacing_mm: Sequence[float] | None = None,
        include_background: bool = True,
        kind: Kind = "auto",
        tolerance_mm: float | None = None,
        empty: Empty = "diagonal",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.single = isinstance(metric, str)
        self.names = (metric,) if isinstance(metric, str) else tuple(metric)
        unknown = [name for name in self.names if name not in SCORES]
        if unknown or not self.names:
            what = repr(unknown[0]) if unknown else "none"
            raise ValueError(f"metric is {what}. Choose from {', '.join(SCORES)}.")
        self.spacing_mm = spacing_mm
        self.include_background = include_background
        self.options: dict[str, Any] = {
            "kind": kind,
            "tolerance_mm": tolerance_mm,
            "empty": empty,
        }
        self.reduction = reduction

    def __call__(
        self,
        y_pred: Tensor | Sequence[Tensor],
        y: Tensor | Sequence[Tensor],
        *,
        spacing_mm: Sequence[float] | None = None,
        defective: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Score a batch and keep the scores.

        Args:
            y_pred: Masks, 0 and 1, shape ``(B, C, X, Y, Z)``, or a list of ``(C, X, Y, Z)``.
            y: The references, the same.
            spacing_mm: Edge lengths of a voxel, for all of the batch; None for those of the
                constructor, or those of ``y``.
            defective: Skulls with the defect, ``(B, 1, X, Y, Z)`` or a list, for ``bdsc`` and
                ``roughness_mm``.

        Returns:
            Scores, shape ``(B, C)``; ``(B, C, M)`` for several names.

        Raises:
            ValueError: As ``score``, or if no spacing is known or a score needs ``defective``.
        """
        scored = [self._score(*item) for item in self._items(y_pred, y, spacing_mm, defective)]
        values, failed = (torch.stack(each) for each in zip(*scored, strict=True))
        self.extend(values, failed)
        return self._shaped(values)

    def aggregate(self, reduction: Reduction | None = None) -> Tensor:
        """Return the value over all cases of all processes, which must all call it.

        Args:
            reduction: ``mean``: over cases and channels; ``mean_batch``: over cases; ``none``.

        Returns:
            A scalar, ``(C,)`` or ``(N, C)``; with a last axis for several names.

        Raises:
            ValueError: If no process has scored a case.
        """
        values, _ = self._all()
        reduction = reduction or self.reduction
        if reduction == "mean":
            values = _mean(values.flatten(0, 1))
        elif reduction == "mean_batch":
            values = _mean(values)
        return self._shaped(values)

    def report(self) -> dict[str, dict[str, float | int]]:
        """Return ``mean``, ``std`` (divided by n), ``n`` and ``failed`` by name, of all processes.

        Raises:
            ValueError: If no process has scored a case.
        """
        values, failed = self._all()
        values = values.flatten(0, 1)
        return {
            name: {
                "mean": float(_mean(column)),
                "std": float(_mean((column - _mean(column)).square()).sqrt()),
                "n": len(column),
                "failed": int(failed.sum()),
            }
            for name, column in zip(self.names, values.unbind(-1), strict=True)
        }

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_: object) -> Tensor:
        raise NotImplementedError  # abstract in MONAI; here ``__call__`` handles batches and lists

    def _items(
        self,
        y_pred: Tensor | Sequence[Tensor],
        y: Tensor | Sequence[Tensor],
        spacing_mm: Sequence[float] | None,
        defective: Tensor | Sequence[Tensor] | None,
    ) -> Iterator[_Item]:
        """Yield each case's prediction, reference ``(C, X, Y, Z)``, spacing and defective skull."""
        given = spacing_mm or self.spacing_mm
        spacings = [given] * len(y) if given is not None else _spacings(y)
        skulls = [None] * len(y) if defective is None else list(defective)
        yield from zip(y_pred, y, spacings, skulls, strict=True)

    def _score(
        self, y_pred: Tensor, y: Tensor, spacing_mm: Sequence[float], defective: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the scores ``(C, M)`` of one case, and which channels failed ``(C,)``."""
        if y_pred.shape != y.shape or y.ndim != 4:
            raise ValueError(
                f"masks must have shape (B, C, X, Y, Z) or be lists of (C, X, Y, Z); a case has "
                f"{tuple(y_pred.shape)} and {tuple(y.shape)}."
            )
        skull = None if defective is None else defective[0]
        values, failed = [], []
        for channel in range(0 if self.include_background else 1, len(y)):
            pair = as_pair(y_pred[channel], y[channel], spacing_mm, defective=skull, **self.options)
            found = measure(pair, self.names)
            lacking = [name for name, value in found.items() if value is None]
            if lacking:
                raise ValueError(
                    f"{lacking[0]} needs the skull with the defect: call the metric with defective."
                )
            values.append([float(found[name] or 0) for name in self.names])
            failed.append(pair.failed)
        return torch.tensor(values, dtype=torch.float64), torch.tensor(failed)

    def _shaped(self, values: Tensor) -> Tensor:
        return values[..., 0] if self.single else values

    def _all(self) -> tuple[Tensor, Tensor]:
        buffers = self.get_buffer()
        if buffers is None:
            raise ValueError("no case has been scored yet. Call the metric with a batch first.")
        values, failed = buffers
        return values, failed

    def _sync(self) -> None:
        """Gather the buffers of all ranks, including those without scores.

        MONAI's version gathers tensors, which a rank without a case cannot join, so that the others
        wait forever. It also skips a rank whose buffers have not changed.
        """
        local = None if self._buffers is None else [torch.stack(each) for each in self._buffers]
        parts = [local]
        if dist.is_available() and dist.is_initialized():
            ranks = Processes(rank=dist.get_rank(), world=dist.get_world_size())
            parts = ranks.gather(local)
        filled = [part for part in parts if part is not None]
        self._synced_tensors = [torch.cat(each) for each in zip(*filled, strict=True)] or None
        self._synced = True


def _mean(values: Tensor) -> Tensor:
    """Return the mean over the first axis, with exact summation, independent of the order."""
    columns = values.flatten(1).T if values.ndim > 1 else values[None]
    means = [_exact_sum(column) / len(values) for column in columns.tolist()]
    return torch.tensor(means, dtype=values.dtype).reshape(values.shape[1:])


def _exact_sum(values: list[float]) -> float:
    return math.fsum(values) if np.isfinite(values).all() else sum(values)


def _spacings(y: Tensor | Sequence[Tensor]) -> list[Sequence[float]]:
    """Return the spacing of each case from the affine that MONAI stores with it."""
    affines = [getattr(each, "affine", None) for each in ([y] if isinstance(y, Tensor) else y)]
    if any(affine is None for affine in affines):
        raise ValueError(
            "the spacing is unknown: the reference has no affine. Give spacing_mm, or MetaTensors "
            "as "
            "MONAI's LoadImage returns them."
        )
    matrices = torch.stack([torch.as_tensor(affine) for affine in affines]).double()
    if isinstance(y, Tensor):  # a batch has one affine, or one per case
        matrices = matrices[0].expand(len(y), -1, -1)
    spacings: list[Sequence[float]] = matrices[:, :3, :3].square().sum(1).sqrt().tolist()
    return spacings
