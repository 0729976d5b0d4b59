"""What a model and a loss are given, and what they return."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from famseg.flatness._errors import LossError

Inputs: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
Loss: TypeAlias = Callable[[Any, Any], Tensor]


def call_model(model: nn.Module, inputs: Inputs) -> object:
    """Call a model as `FAM` does.

    Args:
        model: The model.
        inputs: One argument, a tuple or list of arguments, or a mapping of keywords.

    Returns:
        What the model returns.

    Example:
        >>> import torch
        >>> net = nn.Bilinear(1, 1, 1)
        >>> one = torch.ones(2, 1)
        >>> named = {"input1": one, "input2": one}
        >>> call_model(net, (one, one)).shape == call_model(net, named).shape
        True
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def select(prediction: object, output: str | None) -> object:
    """Return the part of a model's output that the loss takes."""
    if output is None:
        return prediction
    if isinstance(prediction, Mapping) and output in prediction:
        part: object = prediction[output]
        return part
    if not isinstance(prediction, Mapping) and hasattr(prediction, output):
        return getattr(prediction, output)
    has = f" It has {', '.join(map(repr, prediction))}." if isinstance(prediction, Mapping) else ""
    raise LossError(f"the model's output, a {type(prediction).__name__}, has no {output!r}.{has}")


def scalar(loss: object) -> Tensor:
    """Return the loss, or say what is wrong with it."""
    if not isinstance(loss, Tensor):
        raise LossError(f"the loss must return a tensor, got {type(loss).__name__}.")
    if loss.ndim != 0:
        raise LossError(
            f"the loss must be one scalar for the batch, got shape {tuple(loss.shape)}. "
            'Use reduction="mean".'
        )
    return loss


def rows_of(value: Any, part: Tensor | None, n: int) -> Any:  # noqa: ANN401
    """Return the samples of a part in whatever holds them: tensors whose first dimension is n."""
    if part is None:
        return value

    def rows(tensor: Tensor) -> Tensor:
        return tensor[part.to(tensor.device)] if tensor.ndim and len(tensor) == n else tensor

    return changed(value, rows)


def precise(value: Any) -> Any:  # noqa: ANN401
    """Return values without graph, in single precision where they have less."""

    def full(tensor: Tensor) -> Tensor:
        low = tensor.is_floating_point() and tensor.dtype.itemsize < 4
        return tensor.detach().float() if low else tensor.detach()

    return changed(value, full)


def differentiable_in(value: Any) -> Any:  # noqa: ANN401
    """Return values that a graph may save: tensors made in inference mode are copied."""
    return changed(value, lambda tensor: tensor.clone() if tensor.is_inference() else tensor)


def changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:  # noqa: ANN401
    """Return what holds tensors, with each of them changed."""
    if isinstance(value, Tensor):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        parts = {name: changed(getattr(value, name), change) for name in names}
        return dataclasses.replace(value, **parts)
    if isinstance(value, Mapping):
        return {key: changed(item, change) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [changed(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def has_several(inputs: object) -> bool:
    """Return whether the first tensor among the model's arguments holds more than one sample."""
    if isinstance(inputs, Tensor):
        return inputs.ndim == 0 or len(inputs) != 1
    items: Iterable[object] = ()
    if isinstance(inputs, Mapping):
        items = inputs.values()
    elif isinstance(inputs, tuple | list):
        items = inputs
    return next((has_several(item) for item in items if isinstance(item, Tensor)), True)
