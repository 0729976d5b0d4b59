"""Checks of the shapes and options for which closed forms of relative flatness hold."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from famseg.flatness._check import check_choice
from famseg.flatness._errors import LayerError, NotApplicableError
from famseg.flatness._estimators._factor import Quantity
from famseg.flatness._estimators._products import Gradient

ClosedQuantity = Literal["relative_flatness", "simplified"]


def over(values: Tensor, like: Tensor, name: str) -> Tensor:
    """Broadcast values to a shape; refuse a larger result, which would change a mean."""
    try:
        return values.to(like).expand(like.shape)
    except RuntimeError:
        raise NotApplicableError(
            f"{name} must broadcast to the outputs, shape {tuple(like.shape)}, got shape "
            f"{tuple(values.shape)}."
        ) from None


def check_options(reduction: str, quantity: Quantity, gradient: Gradient) -> None:
    """Refuse options for which there is no closed form."""
    if reduction not in ("mean", "sum"):
        raise NotApplicableError(f'reduction must be "mean" or "sum", got {reduction!r}.')
    check_choice("quantity of a closed form", quantity, get_args(ClosedQuantity))
    check_choice("gradient", gradient, get_args(Gradient))


def check_shapes(features: Tensor, logits: Tensor | None, weight: Tensor) -> None:
    """Refuse anything but one feature vector per sample."""
    names, tensors = ("features", "logits", "weight"), (features, logits, weight)
    shapes = {n: tuple(x.shape) for n, x in zip(names, tensors, strict=True) if x is not None}
    fits = all(len(shape) == 2 for shape in shapes.values())
    fits = fits and shapes["features"][1] == shapes["weight"][1]
    if fits and logits is not None:
        fits = shapes["logits"] == (shapes["features"][0], shapes["weight"][0])
    if not fits:
        wanted = {"features": "(n, m)", "logits": "(n, d)", "weight": "(d, m)"}
        raise LayerError(
            f"{_listed(list(shapes))} must have shapes {_listed([wanted[n] for n in shapes])}, "
            f"got {_listed([str(shape) for shape in shapes.values()])}."
        )


def check_classes(targets: object, logits: Tensor) -> None:
    """Refuse targets that are neither class indices nor class probabilities."""
    n, d = logits.shape
    shape = tuple(targets.shape) if isinstance(targets, Tensor) else None
    if shape not in ((n,), (n, d)):
        raise NotApplicableError(
            f"the closed form of cross-entropy needs targets of shape {(n,)} (class indices) or "
            f"{(n, d)} (class probabilities), got {_kind(targets)}."
        )


def check_elements(targets: object, logits: Tensor) -> None:
    """Refuse targets whose shape is not that of the outputs."""
    if not isinstance(targets, Tensor) or targets.shape != logits.shape:
        raise NotApplicableError(
            f"the closed form needs targets with the shape of the outputs, {tuple(logits.shape)}, "
            f"got {_kind(targets)}: targets that are broadcast change the mean that the loss "
            "takes. Give both the same shape, for example by targets.unsqueeze(1)."
        )


def _kind(value: object) -> str:
    return f"{tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1]
