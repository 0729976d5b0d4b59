"""Cost and accuracy of boundary metrics, compared with other libraries in one run.

pip install --no-deps --target PEERS surface-distance-based-measures medpy
PYTHONPATH=PEERS python benchmarks/metrics.py --out benchmarks/results/metrics.md

Contestants score the same pairs in turns, each time in a separate process. Takes a quarter of an
hour on one core, most of it for noise on the large grids, where some are stopped after ``--limit``
processor seconds; ``--quick`` checks in some seconds that everything runs.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _measure import environment, say
from _metrics_page import COLUMNS, Error, Row, page, verdicts
from _metrics_pairs import Pair, known, skulls
from _metrics_runs import Run, run_alone, store
from _metrics_scorers import Scorer, scorers

from famseg.files import write_atomically
from famseg.metrics import border

_SLOW_S = 10.0  # processor time; slower contestants run once
_NOT_THERE = "MetricsReloaded is not on PyPI: left out"


def measured(pair: Pair, contestants: list[Scorer], rounds: int, limit_s: float) -> list[Row]:
    """Measure all contestants on one pair, in turns.

    Args:
        pair: The masks.
        contestants: The contestants.
        rounds: Number of runs of each.
        limit_s: Limit of one run.
    """
    runs: dict[str, list[Run]] = {one.name: [] for one in contestants}
    present = [one for one in contestants if one.missing is None]
    with tempfile.TemporaryDirectory() as folder:
        store(pair, Path(folder))
        for k in range(rounds):
            for one in random.Random(k).sample(present, len(present)):  # noqa: S311 - an order
                if any(run.cpu > _SLOW_S for run in runs[one.name]):
                    continue
                runs[one.name].append(run_alone(one.name, Path(folder), limit_s))
                last = runs[one.name][-1]
                say(f"  {pair.grid} {pair.kind}, {one.name}: {last.cpu:.3g} s of the processor")
    points = int(np.count_nonzero(border(pair.prediction)))
    return [
        Row(pair.grid, pair.kind, points, one.name, runs[one.name], one.missing)
        for one in contestants
    ]


def errors(contestants: list[Scorer], quick: bool) -> list[Error]:
    """Compare all contestants with analytic values."""
    found = []
    for case in known(quick):
        for one in contestants:
            if one.missing is None:
                scores = one.exact(case.pair)()
                voxels = " x ".join(f"{length:g}" for length in case.pair.spacing)
                off = {
                    name: value - case.distances[name.partition(" ")[0]]
                    for name, value in scores.items()
                    if name in COLUMNS
                }
                found.append(Error(case.name, voxels, one.name.partition(",")[0], off))
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="page to write; the numbers go beside it as JSON")
    parser.add_argument("--quick", action="store_true", help="the smallest grid, cubic voxels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0, metavar="S", help="of one run")
    return parser.parse_args()


def main() -> None:
    """Measure, print the page and write it."""
    arguments, began = _arguments(), time.monotonic()
    rounds = 1 if arguments.quick else arguments.rounds
    contestants = scorers()
    packages = [one.package for one in contestants[1:]]
    surroundings = environment("cpu", 1, [*packages, "numpy", "scipy", "torch"]) | {
        "not there": _NOT_THERE,
        "command": " ".join(["python", "benchmarks/metrics.py", *sys.argv[1:]]),
    }
    say("shapes with known distances")
    off = errors(contestants, arguments.quick)
    rows = [
        row
        for pair in skulls(arguments.quick)
        for row in measured(pair, contestants, rounds, arguments.limit)
    ]
    surroundings["load after"] = f"{os.getloadavg()[0]:.2f}"
    surroundings["took"] = f"{(time.monotonic() - began) / 60:.0f} min"
    held = verdicts(rows, off)
    text = page(surroundings, rows, off, held)
    print(text)
    if arguments.out:
        numbers = {
            "surroundings": surroundings,
            "pairs": [dataclasses.asdict(row) for row in rows],
            "errors": [dataclasses.asdict(one) for one in off],
            "targets": [dataclasses.asdict(one) for one in held],
        }
        write_atomically(arguments.out, f"{text}\n".encode())
        content = json.dumps(numbers, indent=1) + "\n"
        write_atomically(arguments.out.with_suffix(".json"), content.encode())


if __name__ == "__main__":
    main()
