"""Passes without side effects on buffers, random state, modes and attributes."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from famseg.flatness._tracing._held import Held


class RandomState(NamedTuple):
    """Global state of all random generators that a network may use.

    Attributes:
        cpu: State of torch on the CPU.
        cuda: A CUDA device, and the state of torch on it.
        python: State of the module ``random``.
        numpy: State of ``numpy.random``, if it has been imported.
    """

    cpu: Tensor
    cuda: tuple[torch.device, Tensor] | None
    python: tuple[Any, ...]
    numpy: Any


def random_state(device: torch.device) -> RandomState:
    """Return the global random state of the CPU and, if the device has one, of the device."""
    own = (device, torch.cuda.get_rng_state(device)) if device.type == "cuda" else None
    numpy = sys.modules.get("numpy.random")
    return RandomState(
        torch.get_rng_state(), own, random.getstate(), numpy.get_state() if numpy else None
    )


def set_random_state(state: RandomState) -> None:
    """Restore a state returned by `random_state`."""
    torch.set_rng_state(state.cpu)
    if state.cuda is not None:
        device, own = state.cuda
        torch.cuda.set_rng_state(own, device)
    random.setstate(state.python)
    if state.numpy is not None:
        sys.modules["numpy.random"].set_state(state.numpy)


class _Snapshot:
    """State that passes may change: buffers, Python state, random state, a generator's state."""

    def __init__(
        self, parts: Sequence[object], device: torch.device, generator: torch.Generator | None
    ) -> None:
        self._buffers = _copies([part for part in parts if isinstance(part, nn.Module)])
        self._held = Held(parts)
        self._random = random_state(device)
        self._generator = generator
        self._drawn = None if generator is None else generator.get_state()

    def put_back(self) -> None:
        self._held.put_back()
        _put_back(self._buffers)
        set_random_state(self._random)
        if self._generator is not None and self._drawn is not None:
            self._generator.set_state(self._drawn)


@contextmanager
def untouched(
    parts: Sequence[object], device: torch.device, generator: torch.Generator | None = None
) -> Iterator[None]:
    """Restore all state that passes may change on exit, bit for bit.

    It comprises buffers, global random state, a generator, and the Python state covered by `Held`.

    Args:
        parts: The objects that run: the model and the loss.
        device: Device of the model's random numbers.
        generator: A generator that the context may use.
    """
    snapshot = _Snapshot(parts, device, generator)
    try:
        yield
    finally:
        snapshot.put_back()


@contextmanager
def undone_on_error(
    parts: Sequence[object], device: torch.device, generator: torch.Generator | None = None
) -> Iterator[None]:
    """Restore the same state as `untouched`, but only if an exception is raised."""
    snapshot = _Snapshot(parts, device, generator)
    try:
        yield
    except BaseException:
        snapshot.put_back()
        raise


@contextmanager
def evaluating(*parts: object) -> Iterator[None]:
    """Set modules and submodules to evaluation mode, and restore each mode on exit."""
    whole = [part for part in parts if isinstance(part, nn.Module)]
    modes = {module: module.training for part in whole for module in part.modules()}
    for part in whole:
        part.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _copies(parts: Sequence[nn.Module]) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    return [
        (module, name, buffer, buffer.detach().clone())
        for part in parts
        for module in part.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _put_back(buffers: Sequence[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
    for module, name, buffer, value in buffers:
        module._buffers[name] = buffer
        # Written through .data, because a graph that will be differentiated later may have saved
        # the buffer with exactly the values that are restored here.
        buffer.data.copy_(value)
