"""Peak memory of steps: each in a process of its own, or as the allocator of a GPU counts it."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import resource
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from _measure import Step

_P, _R = ParamSpec("_P"), TypeVar("_R")
MIB = 2**20
# As many for every contestant: the holes between a process's tensors grow with its first steps.
_STEPS = 12


class Memory(NamedTuple):
    """Peaks in bytes above what the process held before the first step.

    Attributes:
        first: Of the first step, checks included.
        later: Of the steps behind it.
    """

    first: int
    later: int

    @property
    def peak(self) -> int:
        """Of all steps."""
        return max(self)


def peak(
    build: Callable[[], Step],
    device: str,
    threads: int,
    *,
    before: Callable[[], Step] | None = None,
    limit: int | None = None,
    times: int = 1,
) -> Memory | None:
    """Return the peak memory of steps in a new process; ``None`` if they do not fit.

    On a GPU the allocator counts to the byte, and a new process would take seconds to begin: there
    the steps run in this one, once.

    Args:
        build: Makes the step.
        device: Where it runs.
        threads: How many the process may use.
        before: A small step that loads the libraries, where they would hide what is measured.
        limit: How many bytes the process may have beside its libraries.
        times: In how many processes; the medians of their peaks are returned, since what the C
            library gives back, and when, differs from one to the next.
    """
    if device == "cuda":
        return _on_gpu(build, threads, before, limit)
    found = [alone(_peak, build, device, threads, before, limit) for _ in range(times)]
    peaks = [one for one in found if one is not None]
    if len(peaks) < times:
        return None
    return Memory(*(int(statistics.median(part)) for part in zip(*peaks, strict=True)))


def alone(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R | None:
    """Call a function in a new process that has only imported; ``None`` if it ran out of memory."""
    try:
        return _pool().submit(function, *args, **kwargs).result()
    except BrokenProcessPool:
        _pool.cache_clear()
        return None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            return None
        raise


def limit_memory(limit: int | None, device: str) -> None:
    """Let this process have so many bytes more than its libraries, and no more."""
    if limit is None:
        return
    if device == "cuda":  # whose driver maps more addresses than there is memory
        whole = torch.cuda.get_device_properties(0).total_memory
        allowed = torch.cuda.memory_reserved() + limit
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / whole))
        return
    addresses = limit + _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))


def _on_gpu(
    build: Callable[[], Step], threads: int, before: Callable[[], Step] | None, limit: int | None
) -> Memory | None:
    gc.collect()  # what earlier contestants left in cycles
    torch.cuda.empty_cache()
    try:
        return _peak(build, "cuda", threads, before, limit)
    except torch.OutOfMemoryError:
        return None
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _peak(
    build: Callable[[], Step],
    device: str,
    threads: int,
    before: Callable[[], Step] | None,
    limit: int | None,
) -> Memory:
    torch.set_num_threads(threads)
    limit_memory(limit, device)
    if before is not None:
        step = before()
        for _ in range(step.cycle() + 1):
            step.run()
    step = build()
    held, gauge = _held(device), _Gauge(device)
    step.run()
    first = gauge.peak() - held
    gauge.reset()
    for _ in range(max(_STEPS, 2 * step.cycle())):
        step.run()
    return Memory(first, gauge.peak() - held)


class _Gauge:
    """The highest memory of this process since it was made or reset."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        if self._device == "cuda":
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        # Not resource.getrusage: a new process may inherit the peak of the one that started it.
        return _status("VmHWM")


def _held(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


@functools.cache
def _pool() -> ProcessPoolExecutor:
    """Processes that are forked from one that has imported what takes long, and run nothing."""
    context = multiprocessing.get_context("forkserver")
    # The server imports by the path of a new Python, without this folder.
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    context.set_forkserver_preload(["_flatness_layers"])
    return ProcessPoolExecutor(max_workers=1, mp_context=context, max_tasks_per_child=1)
