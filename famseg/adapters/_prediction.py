"""The network's output in the pass from which the loss was computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.autograd.graph import Node


class Predictions:
    """The outputs of a network in the passes of one step.

    A penalized step may run its network several times: once to determine how to penalize it and, if
    a part of the batch is used, again after the layer.
    """

    def __init__(self) -> None:
        self._outputs: list[object] = []

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        """Collect the outputs of a network inside the context."""

        def keep(module: nn.Module, args: object, output: object) -> None:
            self._outputs.append(output)

        handle = model.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def behind(self, loss: Tensor) -> object:
        """Return the output on which a loss depends that is closest to it in the graph."""
        if len(self._outputs) == 1:
            return self._outputs[0]
        owners: dict[Node, object] = {}
        for output in self._outputs:
            for tensor in _tensors(output):
                if tensor.grad_fn is not None:
                    owners.setdefault(tensor.grad_fn, output)
        level, seen = [loss.grad_fn], set()
        while level:  # breadth first, since the path from a loss to the network's output is short
            following = []
            for node in level:
                if node is None or node in seen:
                    continue
                if node in owners:
                    return owners[node]
                seen.add(node)
                following += [behind for behind, _ in node.next_functions]
            level = following
        return None


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
