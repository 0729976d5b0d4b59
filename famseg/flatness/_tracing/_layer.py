"""Lookup of the layers to penalize, with errors for layers that cannot be penalized."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from famseg.flatness._errors import LayerError, LayerNotFoundError
from famseg.flatness._tracing._operator import Layer, is_linear

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_SHOWN = 8
_PRECISE = (torch.float32, torch.float64)
# Prefix that torch.compile adds to the names of submodules.
COMPILED = "_orig_mod."


def find_layer(model: nn.Module, name: str) -> Layer:
    """Return the linear or convolution layer with a dotted name.

    Args:
        model: The network, compiled or not.
        name: Dotted name as in ``model.named_modules()``, with or without the ``_orig_mod.`` of
            compiled modules; ``""`` is the model itself.

    Returns:
        The layer: an `torch.nn.Linear`, ``Conv1d`` to ``Conv3d``, ``ConvTranspose1d`` to
        ``ConvTranspose3d`` or transformers' ``Conv1D``, whose weight is a parameter that no other
        module holds.

    Raises:
        LayerNotFoundError: If there is no such module; the message lists similar names.
        LayerError: If the module is not such a layer, or if its weight is shared or computed.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> find_layer(net, "0")
        Linear(in_features=3, out_features=2, bias=True)
        >>> find_layer(net, "1")
        Traceback (most recent call last):
        famseg.flatness._errors.LayerError: layer '1' is a ReLU, neither linear nor a convolution. \
Linear or convolution: '0'.
    """
    modules = {
        key.replace(COMPILED, ""): module
        for key, module in model.named_modules(remove_duplicate=False)
    }
    candidates = penalizable_layers(model)
    plain = name.replace(COMPILED, "")
    if plain not in modules:
        near = difflib.get_close_matches(plain, candidates, n=3, cutoff=0.4)
        hint = f" Did you mean {_listed(near)}?" if near else ""
        raise LayerNotFoundError(
            f"no layer is called {name!r}.{hint} {_listed_candidates(candidates, len(modules))}"
        )
    layer = modules[plain]
    if hasattr(layer, "_orig_mod"):
        layer = layer._orig_mod
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        raise LayerError(
            f"layer {name!r} is an embedding: its inputs are indices, so it has no "
            f"features. {_listed_candidates(candidates, len(modules))}"
        )
    if not _is_layer(layer):
        raise LayerError(
            f"layer {name!r} is a {type(layer).__name__}, neither linear nor a convolution. "
            f"{_listed_candidates(candidates, len(modules))}"
        )
    _check_weight(model, layer, name)
    return layer


def penalizable_layers(model: nn.Module) -> list[str]:
    """Return the names of the linear and convolution layers of a model, in the order of the model.

    Example:
        >>> penalizable_layers(nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Linear(3, 2)))
        ['0', '2']
    """
    return [key.replace(COMPILED, "") for key, module in model.named_modules() if _is_layer(module)]


def _is_layer(module: nn.Module) -> TypeIs[Layer]:
    return isinstance(module, _ConvNd) or is_linear(module)


def _check_weight(model: nn.Module, layer: Layer, name: str) -> None:
    if isinstance(layer, LazyModuleMixin) and layer.has_uninitialized_params():
        raise LayerError(f"layer {name!r} is lazy: run the model once before you penalize it.")
    if parametrize.is_parametrized(layer) or "weight" not in layer._parameters:
        raise LayerError(
            f"the weight of layer {name!r} is computed from other parameters (a parametrization "
            "such as weight or spectral norm). Remove it, or penalize another layer."
        )
    weight = layer.weight
    if weight.is_complex():
        raise LayerError(
            f"the weight of layer {name!r} is complex. Flatness is defined for real weights."
        )
    if weight.dtype.itemsize < 4:
        raise LayerError(
            f"the weight of layer {name!r} is {weight.dtype}, which is too coarse for second "
            "derivatives. Keep the weights in float32 and run under torch.autocast."
        )
    holders = _holders(model)[id(weight)]
    if len(holders) > 1:
        raise LayerError(
            f"the weight of layer {name!r} is shared ({_listed(holders)}): its flatness would have "
            f"to count every use. {others(model, name)}"
        )


def others(model: nn.Module, name: str) -> str:
    """Return which layers can be penalized instead of one whose weight has several uses.

    Args:
        model: The network.
        name: Name of that layer.

    Returns:
        A sentence for the end of a message. It lists layers whose weight no other module shares;
        how often they are called is only known after a pass.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> others(net, "0")
        "Penalize a layer that has a weight of its own: '2'."
    """
    own = [key for key in _own(model) if key != name.replace(COMPILED, "")]
    if not own:
        return "No other layer of the model has a weight of its own."
    more = f" and {len(own) - _SHOWN} more" if len(own) > _SHOWN else ""
    return f"Penalize a layer that has a weight of its own: {_listed(own[-_SHOWN:])}{more}."


def _own(model: nn.Module) -> list[str]:
    """Return the layers that can be penalized and whose weight no other module shares."""
    found, holders = [], _holders(model)
    for key, module in model.named_modules():
        if not _is_layer(module):
            continue
        weight = module._parameters.get("weight")
        usable = weight is not None and not is_lazy(weight) and weight.dtype in _PRECISE
        if usable and len(holders[id(weight)]) == 1:
            found.append(key.replace(COMPILED, ""))
    return found


def _holders(model: nn.Module) -> dict[int, list[str]]:
    """Return the names of each parameter, by its id.

    A module with two names counts once; how often it is called is checked in a pass.
    """
    found: dict[int, list[str]] = {}
    for key, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append(f"{key}.{name}" if key else name)
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _listed_candidates(names: list[str], modules: int) -> str:
    if not names:
        return f"None of the {modules} modules is linear or a convolution."
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    # The last layers, since heads and bottlenecks are usually penalized.
    return f"Linear or convolution: {_listed(names[-_SHOWN:])}{more}."
