"""Passes that leave no trace: buffers, random state, modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

RandomState = tuple[Tensor, Tensor | None]


def random_state(device: torch.device) -> RandomState:
    """Return the global random state of the CPU and, if it has one, of a device."""
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), own


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Set what `random_state` returned."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


@contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Afterwards the model's buffers and the global random state are what they were, bit by bit."""
    with kept_buffers(model):
        state = random_state(device)
        try:
            yield
        finally:
            set_random_state(state, device)


@contextmanager
def undone_on_error(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put buffers and random state back if, and only if, the body raises."""
    buffers, state = _copies(model), random_state(device)
    try:
        yield
    except BaseException:
        _put_back(buffers)
        set_random_state(state, device)
        raise


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Afterwards the model's buffers are what they were, bit by bit."""
    buffers = _copies(model)
    try:
        yield
    finally:
        _put_back(buffers)


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


def _copies(model: nn.Module) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    return [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _put_back(buffers: list[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
    for module, name, buffer, value in buffers:
        module._buffers[name] = buffer
        # Through .data, since a graph that is still to be differentiated may have saved the buffer,
        # with the very values that it gets back here.
        buffer.data.copy_(value)
