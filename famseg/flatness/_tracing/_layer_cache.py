"""The penalized layers of a model, found once and verified at each step."""

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
    """The layers of some names, as `find_layer` finds them.

    `find_layer` walks through all modules of a model several times, which on a short step costs as
    much as the step. Here a step only compares what each module holds, by identity, with what it
    held before: about 0.05 us for each module and parameter. The layers are found anew, with all
    checks, as soon as a module or a parameter anywhere in the model was added, removed, replaced or
    tied, or a layer's weight has another type.

    Args:
        names: Dotted names of the layers.

    Attributes:
        modules: All modules of the model, each once, as of the last call of `layers`.
        generation: How often the layers were found anew: what depends on the structure of the
            model holds as long as this number.

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
            model: The network; another one than before is looked at anew.

        Raises:
            LayerNotFoundError: As `find_layer` does.
            LayerError: Likewise.
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
            # The end marks keep a longer sequence from passing for one that it begins with.
            and all(map(is_, _content(self.modules), self._content))
        )

    def _remember(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        self.modules = tuple(model.modules())
        self._layers = layers
        self.generation += 1
        try:
            self._content = tuple(_content(self.modules))
        except TypeError:  # a scripted module, whose content is not in dictionaries
            return
        self._weights = [(x, x.weight, x.weight.dtype, type(x)) for x in layers.values()]
        self._steps = [step for name in layers for step in _steps(model, name)]
        self._model = model

    def _forget(self) -> None:
        self._model, self.modules, self._layers = None, (), {}
        self._content, self._weights, self._steps = (), [], []

    def __getstate__(self) -> dict[str, Any]:
        """A copy finds its layers in its own model."""
        return {"_names": self._names, "generation": self.generation}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def _content(modules: Sequence[nn.Module]) -> Iterator[object]:
    """What modules hold: first the children of all, then all parameters."""
    holders = chain(map(_children, modules), map(_parameters, modules))
    return chain(chain.from_iterable(map(dict.values, holders)), (_END,))


def _steps(model: nn.Module, name: str) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """The way from a model to a layer of it: module, key and child, through compiled modules."""
    inside = COMPILED.removesuffix(".")
    module = model
    plain = name.replace(COMPILED, "")
    for key in [*plain.split(".")] if plain else []:
        for step in (inside, key) if key not in module._modules else (key,):
            child = module._modules[step]
            assert child is not None  # noqa: S101 - find_layer went this way
            yield module, step, child
            module = child
