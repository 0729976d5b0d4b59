"""Cost of a step as a function of grid and batch: fitted at three grids, checked at a fourth.

``python benchmarks/scaling.py --out benchmarks/results`` takes some minutes of one core. Each step
of the skull autoencoder runs in a separate process; processor time is measured, which other load on
the machine affects little. glibc maps arrays of more than 32 MiB again each time, and the system
has to clear their pages: each step is measured with the default settings and with memory that is
kept (``mallopt``). Then a model is trained on 2,000 subjects for 20 epochs with two loader workers,
while the memory of all processes is recorded.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from _measure import environment, say, table
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from famseg.config import load
from famseg.files import write_atomically
from famseg.tracking import read_metrics

FITTED = ((64, 1), (64, 2), (64, 4), (96, 1), (96, 2), (128, 1))
CHECKED = ((160, 1),)
EXTENT_MM = 224.0
MODES = ((False, False), (False, True), (True, False))  # penalized, memory kept
SUBJECTS = 10
STEPS = 3  # the first one is not counted
FLAT = {"subjects": 2000, "epochs": 20, "workers": 2, "size": 16}
_MIB = 2**20
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


@dataclass(frozen=True)
class Measured:
    """Cost of a step.

    Attributes:
        size: Voxels along an edge.
        batch: Samples of a step.
        penalty: Whether the step was penalized.
        kept: Whether freed memory was kept for the next array.
        load_s: Processor time of loading and augmenting one sample.
        step_s: Processor time of the fastest step, without loading.
        system_s: System time, as part of it.
        gflop: Billions of floating point operations of a plain step; 0 where it was penalized.
        peak_mib: Peak resident memory, relative to that before the data were created.
    """

    size: int
    batch: int
    penalty: bool
    kept: bool
    load_s: float
    step_s: float
    system_s: float
    gflop: float
    peak_mib: float

    @property
    def voxels(self) -> float:
        """Millions of voxels of a batch."""
        return self.batch * self.size**3 / 1e6


def measure(size: int, batch: int, *, penalty: bool, kept: bool) -> Measured:
    """Run some steps in a separate process, forked with preloaded libraries."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(sender, json.dumps(_steps(size, batch, penalty=penalty, kept=kept)).encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"{size}^3, batch {batch}: ended with {status}")
    found = Measured(size, batch, penalty, kept, **json.loads(text))
    say(str(found))
    return found


def _keep_memory() -> None:
    """Make the C library allocate all arrays on its heap and never release memory."""
    library = ctypes.CDLL(None)
    if not (library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)):
        raise RuntimeError("mallopt refused: this needs glibc")


def _steps(size: int, batch: int, *, penalty: bool, kept: bool) -> dict[str, float]:
    torch.set_num_threads(1)
    if kept:
        _keep_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipeline, config = load(
        "skull",
        [
            *(f"data.subjects={SUBJECTS}", f"data.size={size}", "data.test=0.1"),
            *(f"data.spacing_mm={EXTENT_MM / size}", f"lambda={0.002 if penalty else 0}"),
            *("penalty.every=1", "data.validation=0.1", "training.device=cpu"),
        ],
    )
    experiment = pipeline.build(config, device=torch.device("cpu"))
    began = time.process_time()
    samples = [experiment.train[index] for index in range(batch)]
    load_s = (time.process_time() - began) / batch
    data = default_collate(samples)
    objective = experiment.objective.train()
    optimizer = experiment.optimizer(objective.parameters())

    def step() -> tuple[float, float]:
        began = resource.getrusage(resource.RUSAGE_SELF)
        optimizer.zero_grad()
        objective(data).total.backward()
        optimizer.step()
        ended = resource.getrusage(resource.RUSAGE_SELF)
        system = ended.ru_stime - began.ru_stime
        return ended.ru_utime - began.ru_utime + system, system

    seconds, system = min([step() for _ in range(STEPS)][1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gflop = 0.0
    if not penalty:
        with FlopCounterMode(display=False) as counter:
            step()
        gflop = counter.get_total_flops() / 1e9
    return {
        "load_s": load_s,
        "step_s": seconds,
        "system_s": system,
        "gflop": gflop,
        "peak_mib": (peak - before) / 1024,
    }


def fit(points: Sequence[Measured], value: str) -> tuple[float, float]:
    """Return a and b of ``a + b * (millions of voxels of a batch)``, least relative squares."""
    y = np.array([getattr(each, value) for each in points])
    x = np.array([[1.0, each.voxels] for each in points])
    a, b = np.linalg.lstsq(x / y[:, None], np.ones(len(y)))[0]
    return float(a), float(b)


def flat() -> list[dict[str, float | None]]:
    """Return epoch and memory of all processes, in MiB, every second of a long training."""
    words = [
        *(f"data.subjects={FLAT['subjects']}", f"data.size={FLAT['size']}", "data.spacing_mm=14"),
        *("data.test=0.05", "data.validation=0.05", "model.channels=[4,4]", "model.strides=[2,2]"),
        *("model.latent=2", f"training.epochs={FLAT['epochs']}", "training.batch_size=32"),
        *(f"training.workers={FLAT['workers']}", "training.picture_every=20", "output=runs"),
        *("tracking.enabled=false", "training.threads=1", "penalty.every=1"),
    ]
    found: list[dict[str, float | None]] = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "famseg", "train", "--config", "skull", *words]
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            time.sleep(1)
            epochs = [len(read_metrics(run)) for run in Path(folder, "runs").glob("*")]
            found.append({"epoch": max(epochs, default=0), "mib": _memory(process.pid)})
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return found


def _memory(pid: int) -> float | None:
    """Return the proportional memory of a process and its children in MiB; None if one ended."""
    total = 0
    try:
        own = psutil.Process(pid)
        for each in (own, *own.children(recursive=True)):
            total += each.memory_full_info().pss
    except psutil.Error:
        return None
    return total / _MIB


def growth(samples: Sequence[dict[str, float | None]]) -> tuple[float, float, float]:
    """Return the median MiB in the second and the last epoch, and the slope per epoch."""
    by: dict[int, list[float]] = {}
    for each in samples:
        if each["mib"] is not None:
            by.setdefault(int(each["epoch"] or 0) + 1, []).append(each["mib"])
    epochs = [epoch for epoch in sorted(by) if 2 <= epoch <= FLAT["epochs"]]
    medians = [float(np.median(by[epoch])) for epoch in epochs]
    slope = float(np.polyfit(epochs, medians, 1)[0])
    return medians[0], medians[-1], slope


def page(
    points: Sequence[Measured],
    samples: Sequence[dict[str, float | None]],
    machines: Mapping[str, Mapping[str, str]],
) -> str:
    """Return the tables; ``machines`` describes where steps and memory were measured."""
    lines = ["# Cost of a run", "", "Written by `benchmarks/scaling.py`:", ""]
    lines += [f"- {key}: {value}" for key, value in machines["steps"].items()]
    rows, laws = [], []
    for penalty, kept in MODES:
        own = [each for each in points if (each.penalty, each.kept) == (penalty, kept)]
        fitted = [each for each in own if (each.size, each.batch) in FITTED]
        time_, memory = fit(fitted, "step_s"), fit(fitted, "peak_mib")
        name = ("FAM at every step" if penalty else "no penalty") + ", memory kept" * kept
        laws.append([name, *(f"{x:.3g}" for x in (*time_, *memory))])
        for each in own:
            predicted = [a + b * each.voxels for a, b in (time_, memory)]
            errors = [
                p / m - 1 for p, m in zip(predicted, (each.step_s, each.peak_mib), strict=True)
            ]
            part = "fitted" if each in fitted else "**checked**"
            rows.append(
                [
                    *(name, f"{each.size}^3", each.batch, part),
                    *(f"{each.load_s * 1e3:.0f}", "" if penalty else f"{each.gflop:.1f}"),
                    *(f"{each.step_s:.2f}", f"{each.system_s:.2f}"),
                    *(f"{predicted[0]:.2f}", f"{errors[0]:+.0%}"),
                    *(f"{each.peak_mib:.0f}", f"{predicted[1]:.0f}", f"{errors[1]:+.0%}"),
                ]
            )
    head = ["", "grid", "batch", "", "load ms", "GFLOP", "CPU s a step", "of the system"]
    head += ["model", "error", "peak MiB", "model", "error"]
    lines += ["", table(head, rows), "", "With V, the millions of voxels of a batch:", ""]
    head = ["", "time: a (s)", "b (s / V)", "memory: c (MiB)", "d (MiB / V)"]
    lines += [table(head, laws), ""]
    if not samples:
        return "\n".join(lines)
    lines += ["## Memory over time", ""]
    lines += [*(f"- {key}: {value}" for key, value in machines["memory"].items()), ""]
    first, last, slope = growth(samples)
    lines.append(
        f"{FLAT['subjects']:,} subjects at {FLAT['size']}^3, {FLAT['epochs']} epochs, "
        f"{FLAT['workers']} loader workers: all processes together hold {first:.0f} MiB in epoch 2 "
        f"and {last:.0f} MiB in epoch {FLAT['epochs']} (medians of samples every second, shared "
        f"pages divided); slope {slope:+.2f} MiB per epoch."
    )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, fit and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=["steps", "memory"], help="the other one is kept")
    options = parser.parse_args()
    path = options.out / "scaling.json"
    known = {"points": [], "memory": [], "machines": {}}
    if options.part:
        known = json.loads(path.read_text())
    points = [Measured(**each) for each in known["points"]]
    machines = known["machines"]
    here = environment("cpu", 1, ["torch"])
    if options.part != "memory":
        # Modules that a step needs are imported once, before forking.
        _steps(64, 1, penalty=True, kept=False)
        points = [
            measure(size, batch, penalty=penalty, kept=kept)
            for (penalty, kept), (size, batch) in itertools.product(MODES, (*FITTED, *CHECKED))
        ]
        machines["steps"] = here
        write(options.out, points, known["memory"], machines)
    if options.part != "steps":
        machines["memory"] = here
        write(options.out, points, flat(), machines)


def write(
    out: Path,
    points: Sequence[Measured],
    samples: Sequence[dict[str, float | None]],
    machines: Mapping[str, Mapping[str, str]],
) -> None:
    """Write page and numbers, even before memory has been recorded."""
    content = {"points": [asdict(each) for each in points], "memory": samples, "machines": machines}
    write_atomically(out / "scaling.json", json.dumps(content, allow_nan=False).encode())
    write_atomically(out / "scaling.md", page(points, samples, machines).encode())


if __name__ == "__main__":
    main()
