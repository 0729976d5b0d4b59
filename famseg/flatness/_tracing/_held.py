"""Python state of models and losses: attributes, containers, closures, random generators."""

from __future__ import annotations

import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Attributes of nn.Module that passes do not change. Parameters and buffers are handled elsewhere,
# and traversing hundreds of empty dictionaries costs more than a short step.
_OWN = frozenset(nn.Module().__dict__)
_LIBRARY = __name__.rpartition(".")[0]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Attributes that lead from the model into the rest of a program (a trainer, a data set).
_MOST = 20_000
_LONG = 256  # items of a container; a longer one is data or a history
_LARGEST = 2**20  # numbers in a tensor that is not a buffer; a larger one is data, not state


class Held:
    """A copy of the Python state that passes may change, to restore it.

    Starting from modules, functions and objects, it covers: attributes; lists, dictionaries, sets
    and deques; variables of closures, bound methods and partial functions, including those of
    forward hooks; plain tensors and NumPy arrays of up to a million numbers that are changed in
    place; and random generators. For lists of more than 256 items, only the length is restored.
    Larger dictionaries and sets count as data and are not covered; neither are global variables,
    files, and objects whose state is outside their ``__dict__``.

    Args:
        roots: Objects to start from: the model and the loss.
    """

    def __init__(self, roots: Sequence[object]) -> None:
        self._undo: list[Callable[[], object]] = []
        seen: set[int] = set()
        stack = list(roots)
        while stack and len(seen) < _MOST:
            value = stack.pop()
            if value is None or type(value) in _ATOMS or id(value) in seen:
                continue
            seen.add(id(value))
            stack.extend(self._keep(value))

    def put_back(self) -> None:
        """Restore the state."""
        for undo in self._undo:
            undo()

    def _keep(self, value: object) -> Iterable[object]:
        """Record how to restore a value, and return the objects that it contains."""
        if isinstance(value, nn.Module):
            return self._keep_module(value)
        if isinstance(value, Tensor):
            self._keep_tensor(value)
            return ()
        if isinstance(value, dict):
            if len(value) > _LONG:
                return ()
            self._undo.append(partial(_refill, value, dict(value)))
            return value.values()
        if isinstance(value, list | deque):
            return self._keep_sequence(value)
        if isinstance(value, set):
            if len(value) > _LONG:
                return ()
            self._undo.append(partial(_replace_members, value, set(value)))
            return ()
        if isinstance(value, tuple):
            return value
        if isinstance(value, partial):
            return (value.func, *value.args, *value.keywords.values())
        if isinstance(value, types.MethodType):
            return (value.__self__, value.__func__)
        if isinstance(value, types.FunctionType):
            return self._keep_function(value)
        if isinstance(value, torch.Generator):
            self._undo.append(partial(value.set_state, value.get_state()))
            return ()
        if isinstance(value, random.Random):
            self._undo.append(partial(value.setstate, value.getstate()))
            return ()
        return self._keep_numpy(value) if _is_numpy(value) else self._keep_object(value)

    def _keep_sequence(self, value: list[Any] | deque[Any]) -> Iterable[object]:
        """Record a sequence, or only the length of a long one, a history that grows at its end."""
        if len(value) > _LONG:
            self._undo.append(partial(_shorten, value, len(value)))
            return ()
        self._undo.append(partial(_replace_items, value, list(value)))
        return value

    def _keep_module(self, module: nn.Module) -> Iterator[object]:
        own = module.__dict__
        self._undo.append(partial(_refill, own, dict(own)))
        # Not recorded: a pass never replaces modules, such as the children of a ModuleDict.
        yield from module.children()
        for name in _HOOKS:
            yield from own.get(name, {}).values()
        for name, value in own.items():
            if name not in _OWN:
                yield value

    def _keep_tensor(self, tensor: Tensor) -> None:
        # Parameters are changed only by an optimizer, and tensors of a graph only by its
        # operations.
        fixed = tensor.requires_grad or tensor.is_inference() or tensor.is_sparse
        if fixed or tensor.numel() > _LARGEST:
            return
        before, version = tensor.detach().clone(), tensor._version

        def undo() -> None:
            if tensor._version != version:
                tensor.data.copy_(before)

        self._undo.append(undo)

    def _keep_function(self, function: types.FunctionType) -> Iterator[object]:
        if (function.__module__ or "").startswith(_LIBRARY):
            return  # one of our hooks, whose records are the purpose of a pass
        yield from (function.__defaults__ or ())
        if function.__dict__:
            yield function.__dict__
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # an empty closure cell
                continue
            self._undo.append(partial(setattr, cell, "cell_contents", value))
            yield value

    def _keep_numpy(self, value: Any) -> Iterable[object]:  # noqa: ANN401
        numpy = sys.modules["numpy"]
        if isinstance(value, numpy.ndarray):
            if value.flags.writeable and value.size <= _LARGEST:
                self._undo.append(partial(numpy.copyto, value, value.copy()))
        elif isinstance(value, numpy.random.RandomState):
            self._undo.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, numpy.random.Generator):
            bits = value.bit_generator
            self._undo.append(partial(setattr, bits, "state", bits.state))
        return ()

    def _keep_object(self, value: object) -> Iterable[object]:
        try:
            attributes = getattr(value, "__dict__", None)
        except Exception:
            return ()
        if isinstance(value, _NO_STATE) or not isinstance(attributes, dict):
            return ()
        self._undo.append(partial(_refill, attributes, dict(attributes)))
        return attributes.values()


_ATOMS = frozenset({int, float, bool, str, bytes, complex, torch.dtype, torch.device, torch.Size})
_NO_STATE = (type, types.ModuleType, types.BuiltinFunctionType)


def _is_numpy(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "numpy"


def _refill(mapping: dict[Any, Any], items: dict[Any, Any]) -> None:
    # Written only if changed: most are not, and other threads may be reading a module's own.
    if mapping.keys() == items.keys() and all(mapping[key] is items[key] for key in items):
        return
    mapping.clear()
    mapping.update(items)


def _replace_items(sequence: list[Any] | deque[Any], items: list[Any]) -> None:
    if len(sequence) == len(items) and all(a is b for a, b in zip(sequence, items, strict=True)):
        return
    sequence.clear()
    sequence.extend(items)


def _shorten(sequence: list[Any] | deque[Any], length: int) -> None:
    while len(sequence) > length:
        sequence.pop()


def _replace_members(members: set[Any], items: set[Any]) -> None:
    if members != items:
        members.clear()
        members.update(items)
