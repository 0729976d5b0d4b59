"""Time and peak memory of contestants: in turns, and each in a process of its own."""

from __future__ import annotations

import functools
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import torch

_P, _R = ParamSpec("_P"), TypeVar("_R")
MIB = 2**20


@dataclass(frozen=True)
class Step:
    """One step of a contestant, ready to run.

    Attributes:
        run: Runs it.
        cycle: Says, once a step was run, after how many steps things repeat.
    """

    run: Callable[[], object]
    cycle: Callable[[], int] = lambda: 1


@dataclass(frozen=True)
class Contestant:
    """What is measured.

    Attributes:
        name: Its name in the tables.
        build: Makes its step, model and data included; can be sent to another process.
        repeat: How many cycles of it a round takes.
        each: It takes part in every so manieth round.
        missing: What to install, where that is why it cannot take part.
    """

    name: str
    build: Callable[[], Step]
    repeat: int = 1
    each: int = 1
    missing: str | None = None


@dataclass
class Timing:
    """Seconds a step, the mean over whole cycles, by round.

    Attributes:
        first: Wall time of the very first step.
        wall: Wall time.
        cpu: Time on the processor, which a busy neighbour adds less to.
    """

    first: float = float("nan")
    wall: dict[int, float] = field(default_factory=dict)
    cpu: dict[int, float] = field(default_factory=dict)


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


class Spread(NamedTuple):
    """Median, quartiles and count."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise values; NaN where there are none."""
        numbers = torch.tensor(list(values), dtype=torch.float64)
        if not len(numbers):
            return cls(float("nan"), float("nan"), float("nan"), 0)
        low, median, high = numbers.quantile(numbers.new_tensor([0.25, 0.5, 0.75])).tolist()
        return cls(median, low, high, len(numbers))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g}, {self.count})"


def ratio(of: dict[int, float], to: dict[int, float]) -> Spread:
    """Summarise the ratios of two contestants, each taken within one round."""
    return Spread.of(of[k] / to[k] for k in of if k in to)


def timings(contestants: Sequence[Contestant], rounds: int, device: str) -> dict[str, Timing]:
    """Time contestants in turns, so that what disturbs the machine disturbs them alike.

    The first step and one more cycle are not counted. The order turns by one each round.
    """
    present = [one for one in contestants if one.missing is None]
    steps, found = {}, {}
    for one in present:
        say(f"  {one.name}: warm-up")
        step = steps[one.name] = one.build()
        found[one.name] = Timing(first=_seconds(step.run, 1, device)[0])
        _seconds(step.run, step.cycle(), device)
    for k in range(rounds):
        say(f"  round {k + 1} of {rounds}")
        turn = k % len(present)
        for one in present[turn:] + present[:turn]:
            if k % one.each == 0:
                step, timing = steps[one.name], found[one.name]
                count = one.repeat * step.cycle()
                timing.wall[k], timing.cpu[k] = _seconds(step.run, count, device)
    return found


def peak(
    build: Callable[[], Step],
    device: str,
    threads: int,
    *,
    before: Callable[[], Step] | None = None,
    limit: int | None = None,
) -> Memory | None:
    """Return the peak memory of steps in a new process; ``None`` if they do not fit.

    Args:
        build: Makes the step.
        device: Where it runs. On a GPU what counts is the memory of its allocator.
        threads: How many the process may use.
        before: A small step that loads the libraries, where they would hide what is measured.
        limit: How many bytes of addresses the process may have.
    """
    return alone(_peak, build, device, threads, before, limit)


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


def limit_memory(limit: int | None) -> None:
    """Let this process have so many bytes of addresses and no more."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def missing(module: str, package: str) -> str | None:
    """Say what to install if a module is not there."""
    return None if importlib.util.find_spec(module) else f"pip install {package}"


def environment(device: str, threads: int, packages: Sequence[str]) -> dict[str, str]:
    """Return what numbers depend on, with the versions of packages."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    gpu = {"GPU": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_processor()}, {os.cpu_count()} cores, {threads} used",
        **gpu,
        "load before": f"{os.getloadavg()[0]:.2f}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "famseg": _commit(),
        **versions,
    }


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)


def _peak(
    build: Callable[[], Step],
    device: str,
    threads: int,
    before: Callable[[], Step] | None,
    limit: int | None,
) -> Memory:
    torch.set_num_threads(threads)
    limit_memory(limit)
    if before is not None:
        step = before()
        for _ in range(step.cycle() + 1):
            step.run()
    step = build()
    held, gauge = _held(device), _Gauge(device)
    step.run()
    first = gauge.peak() - held
    gauge.reset()
    for _ in range(2 * step.cycle()):
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


def _seconds(run: Callable[[], object], count: int, device: str) -> tuple[float, float]:
    """Wall time and processor time of one run, the mean of some."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        run()
    _wait(device)
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "?")


def _commit() -> str:
    git = functools.partial(
        subprocess.run, capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    changed = git(["git", "status", "--porcelain", "--", "../famseg"]).stdout.strip()
    return (commit or "unknown commit") + (", with uncommitted changes" if changed else "")
