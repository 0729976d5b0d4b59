"""Activation checkpoints that compute again what they computed under observation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch.utils import checkpoint

# The generator that runs a function under a checkpoint; torch 2.14 has given it another name.
_NAMES = (
    "_checkpoint_without_reentrant_generator_impl",
    "_checkpoint_without_reentrant_generator",
)
_RUNS = next(name for name in _NAMES if hasattr(checkpoint, name))

Begin = Callable[[], Callable[[], AbstractContextManager[None]]]


@contextmanager
def computed_again(begin: Begin) -> Iterator[None]:
    """Let checkpoints that run in the body compute again under a context of their own.

    A non-reentrant checkpoint runs its function a second time during backward, when the body is
    long over, and what it saves then must be what it saw. Torch has no other place to tell it: the
    context that ``checkpoint`` takes is its caller's.

    Args:
        begin: Called as a checkpoint begins; what it returns is called for the context.
    """
    original = getattr(checkpoint, _RUNS)

    def generator(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        context = begin()

        def again(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            with context():
                return function(*args, **kwargs)

        return original(again, *args, **kwargs)

    with ExitStack() as stack:
        stack.callback(setattr, checkpoint, _RUNS, original)
        setattr(checkpoint, _RUNS, generator)
        yield
