"""Decisions of rank 0 for all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from famseg.engine._processes import Processes
from famseg.messages import InputError
from famseg.runs import RunFolder, lease

T = TypeVar("T")


def on_main(processes: Processes, choose: Callable[[], T]) -> T:
    """Let rank 0 decide; every rank gets the decision, or the error.

    Every rank must call.

    Args:
        processes: The ranks of the run.
        choose: Called in rank 0 only; what it returns is pickled.

    Raises:
        InputError: In every rank, if `choose` raises it.
    """
    chosen: T | InputError | None = None
    if processes.main:
        try:
            chosen = choose()
        except InputError as error:
            chosen = error
    chosen = processes.from_main(chosen)
    if isinstance(chosen, InputError):
        raise chosen
    return chosen


@contextmanager
def leased(folder: RunFolder, processes: Processes, *, purpose: str) -> Iterator[None]:
    """Own a run folder with all ranks of a command; rank 0 holds the lease.

    A folder that cannot be written to is used without one. Every rank must call.

    Args:
        folder: The run folder.
        processes: The ranks of the command.
        purpose: Purpose of the lease, such as the name of the command.

    Raises:
        BusyError: In rank 0, and an InputError in the others, if another process owns the folder.
    """
    held = []

    def take() -> None:
        held.append(lease(folder.path, purpose=purpose, read_only=True))

    on_main(processes, take)
    try:
        yield
    finally:
        for each in held:
            each.release()
