"""Peak memory of steps: each in a separate process, or as counted by the GPU's allocator."""

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
# The same for every contestant: fragmentation of a process's memory grows in its first steps.
_STEPS = 12


class Memory(NamedTuple):
    """Peaks in bytes, relative to the memory of the process before the first step.

    Attributes:
        first: Of the first step, including checks.
        later: Of the following steps.
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
    """Return the peak memory of steps in a new process; ``None`` if memory is insufficient.

    On a GPU the allocator's count is exact and a new process takes seconds to start, so the steps
    run once in this process.

    Args:
        build: Makes the step.
        device: Where it runs.
        threads: How many the process may use.
        before: A small step that loads libraries whose memory would otherwise be measured.
        limit: How many bytes the process may use in addition to its libraries.
        times: Number of processes; the medians of their peaks are returned, since the time at which
            the C library frees memory varies.
    """
    if device == "cuda":
        return _on_gpu(build, threads, before, limit)
    found = [alone(_peak, build, device, threads, before, limit) for _ in range(times)]
    peaks = [one for one in found if one is not None]
    if len(peaks) < times:
        return None
    return Memory(*(int(statistics.median(part)) for part in zip(*peaks, strict=True)))


def alone(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R | None:
    """Call a function in a new process with preloaded modules; ``None`` if it ran out of memory."""
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
    """Limit this process to a number of bytes in addition to its libraries."""
    if limit is None:
        return
    if device == "cuda":  # its driver maps more addresses than there is memory
        whole = torch.cuda.get_device_properties(0).total_memory
        allowed = torch.cuda.memory_reserved() + limit
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / whole))
        return
    addresses = limit + _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))


def _on_gpu(
    build: Callable[[], Step], threads: int, before: Callable[[], Step] | None, limit: int | None
) -> Memory | None:
    gc.collect()  # reference cycles of earlier contestants
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
    """The peak memory of this process since the gauge was created or reset."""

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
    """Processes forked from a server that has only imported the slow modules."""
    context = multiprocessing.get_context("forkserver")
    # The server imports with the default path, without this folder.
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    context.set_forkserver_preload(["_flatness_layers"])
    return ProcessPoolExecutor(max_workers=1, mp_context=context, max_tasks_per_child=1)
