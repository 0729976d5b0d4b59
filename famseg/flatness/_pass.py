"""The forward pass of a penalised step: model, loss, and the checks on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

from torch import Tensor, nn

from famseg.flatness._errors import LossError
from famseg.flatness._estimators import Pass
from famseg.flatness._tail import check_operations, norms_noted
from famseg.flatness._watch import watched, without_autocast

Inputs: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
Loss: TypeAlias = Callable[[Any, Any], Tensor]


def call_model(model: nn.Module, inputs: Inputs) -> object:
    """Call a model with a tensor, a tuple or list of arguments, or a mapping of keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


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


def forward_pass(
    model: nn.Module,
    layer: nn.Linear,
    name: str,
    loss: Loss,
    inputs: Inputs,
    targets: object,
    *,
    check: bool,
) -> Pass:
    """Run model and loss with the layer watched.

    Args:
        model: The network.
        layer: The penalised layer.
        name: Its name, for messages.
        loss: The loss.
        inputs: Arguments of the model, as `call_model` takes them.
        targets: Second argument of the loss.
        check: Whether to look through the operations after the layer.

    Raises:
        FlatnessError: If layer, loss or an operation after the layer cannot be penalised.
    """
    noted = norms_noted(model, layer) if check else nullcontext(())
    with watched(layer, name) as site, noted as norms:
        prediction = call_model(model, inputs)
        site.check_called_once()
        is_output = site.is_output(prediction)
        # A network may have entered autocast anew by itself.
        with without_autocast(layer.weight.device.type):
            value = scalar(loss(prediction, targets))
    if check:
        check_operations(value, site.shift, name, norms)
    return Pass(value, site.features, site.output, layer.weight, site.shift, is_output)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and all in it into evaluation mode; afterwards each has its own mode again."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
