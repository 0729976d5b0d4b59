"""Timing of contestants that take turns, and the description of the machine."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class Step:
    """One step of a contestant, ready to run.

    Attributes:
        run: Runs it.
        cycle: Returns, after a step was run, the number of steps after which the cost repeats.
    """

    run: Callable[[], object]
    cycle: Callable[[], int] = lambda: 1


@dataclass(frozen=True)
class Contestant:
    """A measured contestant.

    Attributes:
        name: Its name in the tables.
        build: Creates its step with model and data; can be pickled.
        repeat: Number of cycles that are timed together.
        each: It takes part in every ``each``-th round.
        missing: What to install if a package is missing.
    """

    name: str
    build: Callable[[], Step]
    repeat: int = 1
    each: int = 1
    missing: str | None = None


@dataclass
class Timing:
    """Time of a step in each turn, averaged over whole cycles.

    Attributes:
        first: Seconds of the very first step.
        seconds: Wall time.
        ratios: The same, in units of the plain steps before and after.
        cpu_ratios: The same for processor time, which other load on the machine affects less.
    """

    first: float = float("nan")
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)


class Spread(NamedTuple):
    """Median, quartiles and count."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarize values; NaN where there are none."""
        numbers = torch.tensor(list(values), dtype=torch.float64)
        if not len(numbers):
            return cls(float("nan"), float("nan"), float("nan"), 0)
        low, median, high = numbers.quantile(numbers.new_tensor([0.25, 0.5, 0.75])).tolist()
        return cls(median, low, high, len(numbers))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g}, {self.count})"


def timings(contestants: Sequence[Contestant], rounds: int, device: str) -> dict[str, Timing]:
    """Time contestants in turns, each between two runs of the first of them, the plain step.

    The speed of a machine changes within seconds, so each ratio is relative to the mean of those
    two runs. The ratio of the plain step is relative to its previous run: its spread around 1 is
    the resolution of such ratios. The order is drawn for each round. The first step and one more
    cycle are not counted.
    """
    present = [one for one in contestants if one.missing is None]
    steps, found = {}, {one.name: Timing() for one in present}
    for one in present:
        say(f"  {one.name}: warm-up")
        step = steps[one.name] = one.build()
        found[one.name].first = _seconds(step.run, 1, device)[0]
        _seconds(step.run, step.cycle(), device)

    def timed(one: Contestant) -> tuple[float, float]:
        step = steps[one.name]
        return _seconds(step.run, one.repeat * step.cycle(), device)

    plain, *others = present
    before = timed(plain)
    for k in range(rounds):
        say(f"  round {k + 1} of {rounds}")
        turns = [one for one in others if k % one.each == 0]
        for one in random.Random(k).sample(turns, len(turns)):  # noqa: S311 - an order of turns
            own, after = timed(one), timed(plain)
            _note(found[one.name], own, before, after)
            _note(found[plain.name], after, before, before)
            before = after
    return found


def missing(module: str, package: str) -> str | None:
    """Say what to install if a module is missing."""
    return None if importlib.util.find_spec(module) else f"pip install {package}"


def environment(device: str, threads: int, packages: Sequence[str]) -> dict[str, str]:
    """Return the environment that results depend on, with package versions."""
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


def _seconds(run: Callable[[], object], count: int, device: str) -> tuple[float, float]:
    """Mean wall time and processor time of a run."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        run()
    _wait(device)
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def _note(
    timing: Timing,
    own: tuple[float, float],
    before: tuple[float, float],
    after: tuple[float, float],
) -> None:
    wall, cpu = (2 * a / (b + c) for a, b, c in zip(own, before, after, strict=True))
    timing.seconds.append(own[0])
    timing.ratios.append(wall)
    timing.cpu_ratios.append(cpu)


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
