"""Find the layer to penalise, and refuse by name what cannot be penalised."""

from __future__ import annotations

import difflib

from torch import nn
from torch.nn.utils import parametrize

from famseg.flatness._errors import LayerError, LayerNotFoundError

_SHOWN = 8


def find_layer(model: nn.Module, name: str) -> nn.Linear:
    """Return the linear layer that a dotted name stands for.

    Args:
        model: The network.
        name: Dotted name as in ``model.named_modules()``; ``""`` is the model itself.

    Returns:
        The layer: an `torch.nn.Linear` whose weight is a parameter that no other module holds.

    Raises:
        LayerNotFoundError: If there is no such module; the message lists near names.
        LayerError: If the module is no plain linear layer, or if its weight is shared.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> find_layer(net, "0")
        Linear(in_features=3, out_features=2, bias=True)
        >>> find_layer(net, "1")
        Traceback (most recent call last):
        famseg.flatness._errors.LayerError: layer '1' is a ReLU, not a linear layer. Linear: '0'.
    """
    modules = dict(model.named_modules())
    linear = [key for key, module in modules.items() if isinstance(module, nn.Linear)]
    if name not in modules:
        near = difflib.get_close_matches(name, linear, n=3, cutoff=0.4)
        hint = f" Did you mean {_listed(near)}?" if near else ""
        raise LayerNotFoundError(
            f"no layer is called {name!r}.{hint} {_listed_linear(linear, len(modules))}"
        )
    layer = modules[name]
    if not isinstance(layer, nn.Linear):
        raise LayerError(
            f"layer {name!r} is a {type(layer).__name__}, not a linear layer. "
            f"{_listed_linear(linear, len(modules))}"
        )
    _check_weight(model, layer, name)
    return layer


def _check_weight(model: nn.Module, layer: nn.Linear, name: str) -> None:
    if isinstance(layer, nn.LazyLinear):
        raise LayerError(f"layer {name!r} is lazy: run the model once before you penalise it.")
    if parametrize.is_parametrized(layer) or "weight" not in layer._parameters:
        raise LayerError(
            f"the weight of layer {name!r} is computed from other parameters (a parametrization "
            "such as weight or spectral norm). Remove it, or penalise another layer."
        )
    weight = layer.weight
    if weight.dtype.itemsize < 4:
        raise LayerError(
            f"the weight of layer {name!r} is {weight.dtype}: too coarse for second derivatives. "
            "Keep the weights in float32 and run under torch.autocast."
        )
    holders = [
        key for key, other in model.named_parameters(remove_duplicate=False) if other is weight
    ]
    if len(holders) > 1:
        raise LayerError(
            f"the weight of layer {name!r} is shared ({_listed(holders)}): its flatness would have "
            "to count every use. Penalise a layer with a weight of its own."
        )


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _listed_linear(linear: list[str], modules: int) -> str:
    if not linear:
        return f"None of the {modules} modules is linear."
    more = f" and {len(linear) - _SHOWN} more" if len(linear) > _SHOWN else ""
    # The last ones: heads and bottlenecks are what people penalise.
    return f"Linear: {_listed(linear[-_SHOWN:])}{more}."
