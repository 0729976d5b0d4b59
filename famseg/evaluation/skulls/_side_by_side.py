"""Cases that are scored in parallel, in separate processes."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_FEWEST = 8  # items, for which starting processes is worth it
_AHEAD = 2  # items for each process that wait to be worked on

_function: Callable[[Any], Any]


def workers_for(items: int, world: int) -> int:
    """Return how many processes shall score so many cases: as many as torch has threads.

    Args:
        items: The cases.
        world: Processes of the run, which share the machine; of several, each scores by itself.

    Returns:
        1 for this process only: for few cases, and where processes cannot be forked.
    """
    if items < _FEWEST or world > 1 or "fork" not in multiprocessing.get_all_start_methods():
        return 1
    return min(torch.get_num_threads(), items)


def side_by_side(
    function: Callable[[T], R], items: Iterable[T], workers: int
) -> Generator[R, None, None]:
    """Yield what a function makes of items, in their order, from several processes.

    The processes are forked, so that the function may hold anything; it may not compute with torch,
    whose threads they do not have. Items and results are pickled. Items are made here, a few ahead.

    Args:
        function: The function to call; its exceptions are raised here.
        items: Its arguments, one call for each.
        workers: How many processes; 1 for this one.
    """
    if workers < 2:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("fork"),
        initializer=_remember,
        initargs=(function,),  # inherited, not pickled
    )
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_call, item))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _remember(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function


def _call(item: Any) -> Any:  # noqa: ANN401 - any type that the function takes and returns
    return _function(item)
