"""Activation checkpoints that recompute their function under the same context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch.utils import checkpoint

# The generator that runs a function in a checkpoint; torch 2.14 renamed it.
_NAMES = (
    "_checkpoint_without_reentrant_generator_impl",
    "_checkpoint_without_reentrant_generator",
)
_RUNS = next(name for name in _NAMES if hasattr(checkpoint, name))

Begin = Callable[[], Callable[[], AbstractContextManager[None]]]


@contextmanager
def computed_again(begin: Begin) -> Iterator[None]:
    """Make checkpoints that start inside this context recompute in a context of their own.

    A non-reentrant checkpoint runs its function a second time during backward, after this context
    has ended, and must then save the same tensors. Torch has no other hook for this, since the
    ``context_fn`` of ``checkpoint`` belongs to its caller.

    Args:
        begin: Called when a checkpoint begins; its result is called to create the context.
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
