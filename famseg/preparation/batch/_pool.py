"""Work in several processes, which continues if any of them dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class CrashedError(Exception):
    """The process of a job ended without a result.

    Args:
        exit_code: Exit code: negative for the signal that killed it; None if it is not known.
    """

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"its process exited with {exit_code}")
        self.exit_code = exit_code


def in_processes(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Generator[tuple[Job, Result | Exception], None, None]:
    """Run jobs in separate processes, and yield each with its result as it finishes.

    A process that dies breaks its pool. The jobs that were running are then retried one at a time,
    so that each has all of the memory; a job that kills its process again has failed.

    Args:
        function: Importable by name, like everything that a job contains.
        jobs: Arguments of the function.
        workers: Number of processes; 0 runs the jobs in the calling process.

    Yields:
        A job and its result, or the exception that it raised, or CrashedError.
    """
    if workers == 0:
        for job in jobs:
            yield job, _try(function, job)
        return
    waiting, suspects = deque(jobs), deque[Job]()
    while waiting or suspects:
        if suspects:
            yield from _round(function, deque([suspects.popleft()]), 1, suspects)
        else:
            yield from _round(function, waiting, workers, suspects)


def _round(
    function: Callable[[Job], Result], waiting: deque[Job], workers: int, suspects: deque[Job]
) -> Iterator[tuple[Job, Result | Exception]]:
    """Run jobs until none is left or the pool breaks; the jobs then running become suspects."""
    running: dict[Future[Result], Job] = {}
    broken = False
    with _pool(min(workers, len(waiting))) as (pool, processes):
        while running or (waiting and not broken):
            # Submit no more jobs than there are processes, so that every submitted job is running.
            while waiting and not broken and len(running) < workers:
                try:
                    with _without_interrupt():
                        running[pool.submit(function, waiting[0])] = waiting[0]
                    processes()  # recorded while they are alive
                    waiting.popleft()
                except BrokenProcessPool:
                    broken = True
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job, error = running.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    broken = True
                    if workers > 1:
                        suspects.append(job)
                    else:
                        yield job, CrashedError(_exit_code(processes()))
                elif isinstance(error, Exception):
                    yield job, error
                else:
                    yield job, future.result()


def _try(function: Callable[[Job], Result], job: Job) -> Result | Exception:
    try:
        return function(job)
    except Exception as error:
        return error


@contextmanager
def _pool(workers: int) -> Iterator[tuple[ProcessPoolExecutor, Callable[[], set[BaseProcess]]]]:
    """Provide a pool and its processes so far, which are ended at once if an error is raised."""
    # Not forked: a fork would copy locks that threads of the libraries hold at that moment.
    context = multiprocessing.get_context("spawn")
    others, seen = set(multiprocessing.active_children()), set[BaseProcess]()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start)

    def processes() -> set[BaseProcess]:
        seen.update(set(multiprocessing.active_children()) - others)
        return seen

    try:
        yield pool, processes
    except BaseException:
        for process in processes():
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _exit_code(processes: set[BaseProcess]) -> int | None:
    """Return the exit code of the only process of a pool."""
    for process in processes:
        process.join(timeout=5)
        return process.exitcode
    return None


@contextmanager
def _without_interrupt() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, so that the calling process handles it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def calm() -> None:
    """Restrict this process to one thread, and silence the warnings of libraries."""
    import SimpleITK

    # Several processes share the cores, and a fixed order of summation gives the same bits.
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    warnings.simplefilter("ignore")  # from libraries: users of the command cannot fix them


def _start() -> None:
    """Initialize a process: one thread, no warnings, and exit together with its parent."""
    calm()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
