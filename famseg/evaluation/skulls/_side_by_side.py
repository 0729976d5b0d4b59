"""Scoring of cases in parallel, in separate processes."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_FEWEST = 8  # smallest number of items for which starting processes pays off
_AHEAD = 2  # waiting items per process

_function: Callable[[Any], Any]


def workers_for(items: int, world: int) -> int:
    """Return the number of processes for scoring cases: as many as torch has threads.

    Args:
        items: Number of cases.
        world: Number of ranks, which share the machine; if there are several, each scores its own
            cases.

    Returns:
        1 for this process only: for few cases, and if processes cannot be forked.
    """
    if items < _FEWEST or world > 1 or "fork" not in multiprocessing.get_all_start_methods():
        return 1
    return min(torch.get_num_threads(), items)


@contextmanager
def leaving_cores(workers: int) -> Iterator[None]:
    """Predict with a quarter of torch's threads, at least one, while processes score.

    Threads wait for each other after every layer: if scoring takes the core of one of them, all
    wait. An evaluation of 50 cases at 64^3 on two cores took 40 s instead of 43 s.

    Args:
        workers: Number of processes for scoring, see `workers_for`; 1 changes nothing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if workers < 2 else max(1, threads // 4))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def side_by_side(
    function: Callable[[T], R], items: Iterable[T], workers: int
) -> Generator[R, None, None]:
    """Yield the results of a function for items, in their order, from several processes.

    The processes are forked, so the function need not be picklable, but it must not compute with
    torch, whose threads do not survive a fork. Items and results are pickled. Items are created in
    this process, a few in advance.

    Args:
        function: The function to call; its exceptions are raised here.
        items: Its arguments, one call for each.
        workers: Number of processes; 1 for the calling process.
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


def _call(item: Any) -> Any:  # noqa: ANN401 - any types of the function
    return _function(item)
