"""Arguments and results of models and losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from famseg.flatness._errors import LossError

Inputs: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
Loss: TypeAlias = Callable[[Any, Any], Tensor]


def call_model(model: nn.Module, inputs: Inputs) -> object:
    """Call a model with inputs in the form that `FAM` accepts.

    Args:
        model: The model.
        inputs: One argument, a tuple or list of arguments, or a mapping of keywords.

    Returns:
        The output of the model.

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
    """Return the part of a model's output that is passed to the loss."""
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
    """Return the loss, or raise an error if it is not a scalar."""
    if not isinstance(loss, Tensor):
        raise LossError(f"the loss must return a tensor, got {type(loss).__name__}.")
    if loss.ndim != 0:
        raise LossError(
            f"the loss must be one scalar for the batch, got shape {tuple(loss.shape)}. "
            'Use reduction="mean".'
        )
    return plain(loss)


def precise(value: Any) -> Any:  # noqa: ANN401
    """Return values without a graph, with half precision converted to single precision."""

    def full(tensor: Tensor) -> Tensor:
        low = tensor.is_floating_point() and tensor.dtype.itemsize < 4
        return tensor.detach().float() if low else tensor.detach()

    return changed(value, full)


def differentiable_in(value: Any) -> Any:  # noqa: ANN401
    """Return values that a graph can save, with copies of tensors made in inference mode."""
    return changed(value, lambda tensor: tensor.clone() if tensor.is_inference() else tensor)


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor without the metadata of a subclass, such as MONAI's ``MetaTensor``."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def copied(value: Any) -> Any:  # noqa: ANN401
    """Return values with copied tensors, which a model may change in place."""
    return changed(value, torch.clone)


def versions(value: Any) -> tuple[int, ...]:  # noqa: ANN401
    """Return the version counters of tensors, which reveal changes in place."""
    found: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(0 if tensor.is_inference() else tensor._version)
        return tensor

    changed(value, note)
    return tuple(found)


def changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:  # noqa: ANN401
    """Return a structure of tensors with a function applied to each tensor."""
    return mapped(value, lambda _, tensor: change(tensor), "")


def mapped(value: Any, change: Callable[[str, Tensor], Tensor], path: str) -> Any:  # noqa: ANN401
    """Return a structure of tensors with a function applied to each path and tensor.

    Args:
        value: A tensor, or tuples, lists, mappings and dataclasses of such values.
        change: Takes the dotted path of a tensor, and the tensor.
        path: The path of the value itself.
    """
    if isinstance(value, Tensor):
        return change(path, value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        parts = {name: mapped(getattr(value, name), change, f"{path}.{name}") for name in names}
        return dataclasses.replace(value, **parts)
    if isinstance(value, Mapping):
        return {key: mapped(item, change, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [mapped(item, change, f"{path}.{index}") for index, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
