"""Runs of contestants, each in a separate process: time, peak memory and scores."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
from _metrics_pairs import Pair
from _metrics_scorers import scorer

_REPEAT_S = 0.5  # short runs are repeated for this long
_LOOK_S = 0.5  # interval at which the time of a run is checked


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        seconds: Wall time.
        cpu: Processor seconds, which other load on the machine affects less.
        peak: Peak of bytes in addition to masks and libraries.
        ended: Whether it completed; otherwise time and memory are lower bounds.
        scores: Its scores.
    """

    seconds: float
    cpu: float
    peak: int
    ended: bool
    scores: dict[str, float]


def run_alone(name: str, folder: Path, limit_s: float) -> Run:
    """Make a contestant score a stored pair in a new process with preloaded libraries.

    Args:
        name: The contestant.
        folder: Folder to which `store` wrote the pair.
        limit_s: Processor seconds after which the process is stopped.
    """
    ours, its = multiprocessing.Pipe(duplex=False)
    process = _context().Process(target=_measure, args=(name, folder, its))
    process.start()
    its.close()
    try:
        held = ours.recv()  # it is ready
        start, before = time.perf_counter(), _cpu(process.pid)
        while not ours.poll(_LOOK_S):
            cpu = _cpu(process.pid) - before
            if cpu > limit_s:
                peak = _status("VmHWM", process.pid) - held
                return Run(time.perf_counter() - start, cpu, peak, False, {})
        return Run(*ours.recv())
    except EOFError as error:
        raise RuntimeError(f"{name} ended without a result: see its message above.") from error
    finally:
        process.kill()
        process.join()


def store(pair: Pair, folder: Path) -> None:
    """Write a pair to files for the processes."""
    np.save(folder / "prediction.npy", pair.prediction)
    np.save(folder / "truth.npy", pair.truth)
    np.save(folder / "spacing.npy", np.array(pair.spacing))


def _measure(name: str, folder: Path, results: Connection) -> None:
    spacing = tuple(np.load(folder / "spacing.npy").tolist())
    masks = [np.load(folder / f"{mask}.npy") for mask in ("prediction", "truth")]
    ready = scorer(name).ready
    small = np.zeros((9, 8, 250), dtype=bool)
    small[3:6, 2:6, 3:5] = True
    ready(Pair("", "", np.roll(small, 200, axis=2), small, spacing))()  # loads its libraries
    run = ready(Pair("", "", *masks, spacing))
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    held = _status("VmRSS")
    results.send(held)
    count, start, before = 0, time.perf_counter(), time.process_time()
    while not count or time.perf_counter() - start < _REPEAT_S:
        scores = run()
        count += 1
    seconds, cpu = time.perf_counter() - start, time.process_time() - before
    peak = _status("VmHWM") - held
    results.send((seconds / count, cpu / count, peak, True, scores))


@functools.cache
def _context() -> ForkServerContext:
    """Processes are forked from a server that has only imported the slow modules."""
    context = multiprocessing.get_context("forkserver")
    # The server imports with the default path, without this folder.
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    context.set_forkserver_preload(["_metrics_scorers", "monai.metrics"])
    return context


def _status(key: str, process: int | str | None = "self") -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _cpu(process: int | None) -> float:
    """Return the processor seconds of another process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
