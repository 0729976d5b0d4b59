"""The data of a report: one or more batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from torch import Tensor

from famseg.flatness._errors import FlatnessError
from famseg.flatness._measurement._mean_hessian import Batch

Data: TypeAlias = Batch | Iterable[Batch]


def batches_of(data: object) -> list[Batch]:
    """Return data as a list of batches.

    A tuple is one batch, as is a list of two tensors, which a data loader yields.

    Args:
        data: ``(inputs, targets)``, or an iterable of such pairs.

    Raises:
        FlatnessError: If there is no batch, or a batch is not a pair or has no samples.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(3, 2), torch.zeros(3)
        >>> len(batches_of((x, y))), len(batches_of([(x, y), [x, y]]))
        (1, 2)
    """
    if isinstance(data, Tensor | Mapping | str) or not isinstance(data, Iterable):
        raise FlatnessError(
            f"data must be (inputs, targets) or an iterable of such batches, got a "
            f"{type(data).__name__}."
        )
    if isinstance(data, tuple) or _is_loader_item(data):
        data = [data]
    batches: list[Batch] = []
    for number, batch in enumerate(data):
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            what = f"a {type(batch).__name__}"
            if isinstance(batch, tuple | list):
                what += f" of {len(batch)}"
            raise FlatnessError(
                f"batch {number} of the data is {what}: give (inputs, targets), a tuple of two; "
                "several inputs are a tuple of their own."
            )
        batches.append((batch[0], batch[1]))
    if not batches:
        raise FlatnessError("the data contain no batch: give at least one.")
    for number, (inputs, _) in enumerate(batches):
        if samples_of(inputs) == 0:
            raise FlatnessError(
                f"batch {number} of the data contains no samples: the first dimension of its "
                "inputs must be the samples."
            )
    return batches


def samples_of(inputs: object) -> int:
    """Return the length of the first tensor in the inputs of a model; 0 if there is none."""
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.ndim else 0
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs
    if isinstance(parts, Iterable) and not isinstance(parts, str):
        return next((n for part in parts if (n := samples_of(part))), 0)
    return 0


def _is_loader_item(data: object) -> bool:
    return isinstance(data, list) and len(data) == 2 and isinstance(data[0], Tensor | Mapping)
