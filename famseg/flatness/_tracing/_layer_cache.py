"""Cache of the penalized layers of a model, verified at each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn

from famseg.flatness._tracing._layer import COMPILED, find_layer
from famseg.flatness._tracing._operator import Layer

_children, _parameters = attrgetter("_modules"), attrgetter("_parameters")
_END = object()


class LayerCache:
    """The layers with given names, as returned by `find_layer`.

    `find_layer` traverses all modules of a model several times, which can cost as much as a short
    step. Here each step only compares the content of each module with its previous content by
    identity, which takes about 0.05 us per module and parameter. The layers are looked up again,
    with all checks, as soon as a module or parameter anywhere in the model was added, removed,
    replaced or tied, or the type of a layer's weight has changed.

    Args:
        names: Dotted names of the layers.

    Attributes:
        modules: All modules of the model, each once, at the last call of `layers`.
        generation: Number of lookups so far; results that depend on the structure of the model are
            valid as long as it does not change.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> cache = LayerCache(["0"])
        >>> cache.layers(model)["0"] is cache.layers(model)["0"] is model[0]
        True
        >>> model[0] = nn.Linear(3, 5)
        >>> cache.layers(model)["0"].out_features, cache.generation
        (5, 2)
    """

    modules: tuple[nn.Module, ...]
    _model: nn.Module | None
    _layers: Mapping[str, Layer]
    _content: tuple[object, ...]
    _weights: list[tuple[Layer, Tensor, torch.dtype, type[Layer]]]
    _steps: list[tuple[nn.Module, str, nn.Module]]

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self.generation = 0
        self._forget()

    def layers(self, model: nn.Module) -> Mapping[str, Layer]:
        """Return the layers by name.

        Args:
            model: The network; a different network triggers a new lookup.

        Raises:
            LayerNotFoundError: As in `find_layer`.
            LayerError: As in `find_layer`.
        """
        if not self._unchanged(model):
            self._forget()
            layers = {name: find_layer(model, name) for name in self._names}
            self._remember(model, layers)
        return self._layers

    def _unchanged(self, model: nn.Module) -> bool:
        return (
            model is self._model
            and all(parent._modules.get(key) is child for parent, key, child in self._steps)
            and all(
                layer._parameters.get("weight") is weight
                and weight.dtype is dtype
                and type(layer) is kind
                for layer, weight, dtype, kind in self._weights
            )
            # The end marks prevent a sequence from being equal to a prefix of a longer one.
            and all(map(is_, _content(self.modules), self._content))
        )

    def _remember(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        self.modules = tuple(model.modules())
        self._layers = layers
        self.generation += 1
        try:
            self._content = tuple(_content(self.modules))
        except TypeError:  # a scripted module, which has no dictionaries
            return
        self._weights = [(x, x.weight, x.weight.dtype, type(x)) for x in layers.values()]
        self._steps = [step for name in layers for step in _steps(model, name)]
        self._model = model

    def _forget(self) -> None:
        self._model, self.modules, self._layers = None, (), {}
        self._content, self._weights, self._steps = (), [], []

    def __getstate__(self) -> dict[str, Any]:
        """Drop the cache, since a copy must look up the layers in its own model."""
        return {"_names": self._names, "generation": self.generation}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def _content(modules: Sequence[nn.Module]) -> Iterator[object]:
    """Return the content of modules: first the children of all, then all parameters."""
    holders = chain(map(_children, modules), map(_parameters, modules))
    return chain(chain.from_iterable(map(dict.values, holders)), (_END,))


def _steps(model: nn.Module, name: str) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Return the path from a model to a layer: module, key and child, through compiled modules."""
    inside = COMPILED.removesuffix(".")
    module = model
    plain = name.replace(COMPILED, "")
    for key in [*plain.split(".")] if plain else []:
        for step in (inside, key) if key not in module._modules else (key,):
            child = module._modules[step]
            assert child is not None  # noqa: S101 - find_layer checked the path
            yield module, step, child
            module = child
