"""Baseline, SAM, FAM and weight decay of the head on real pictures: a small, honest comparison.

python benchmarks/classification_study.py DATA --out docs/results/classification.md

DATA holds the folders cifar10, cifar100, svhn and fashionmnist in their original formats. Trains
each of configs/study with each method and seed as ``famseg train --resume`` does, about half a
minute of one core a run; what is finished is kept, so the same command goes on where it stopped.
Nothing is chosen by the test: settings and lambdas were fixed before the first run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from _measure import environment, say

from famseg.config import InputError, RunError, load

DATA = ("cifar10", "cifar100", "svhn", "fashionmnist")
_FAM = ("penalty.kind=relative_flatness", "penalty.layer=head", "penalty.normalize=features")
METHODS = {
    "baseline": (),
    "sam": ("sam.rho=0.05",),
    "fam0.1": (*_FAM, "lambda=0.1"),
    "fam1": (*_FAM, "lambda=1"),
    "fam10": (*_FAM, "lambda=10"),
    "decay": ("penalty.kind=weight_decay", "penalty.layer=head", "lambda=0.001"),
}
METRICS = ("test/accuracy", "test/loss", "test/ece", "test/gap", "seconds")
TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "fashionmnist": "FashionMNIST",
}


@dataclass(frozen=True)
class Cell:
    """One training: data, method, seed."""

    data: str
    method: str
    seed: int

    def overrides(self, root: Path, runs: Path) -> list[str]:
        """Return what the cell changes in its configuration."""
        return [
            f"data.root={root / self.data}",
            f"output={runs / self.data}",
            f"name={self.method}",
            f"seed={self.seed}",
            "tracking.enabled=false",
            *METHODS[self.method],
        ]


def cells(seeds: int) -> Iterator[Cell]:
    """Yield all trainings, seed by seed, so that an early end leaves whole comparisons."""
    for seed in range(seeds):
        for data in DATA:
            for method in METHODS:
                yield Cell(data, method, seed)


def train(cell: Cell, root: Path, runs: Path) -> str:
    """Train one cell, or go on with it; a failure is said and leaves the others alone."""
    from famseg.engine import Processes, Session, stop_on_signals

    try:
        pipeline, config = load(f"study/{cell.data}", cell.overrides(root, runs))
        with stop_on_signals() as stop:
            session = Session(pipeline.build, config, processes=Processes(), stop=stop)
            session.run(resume=True)
    except (InputError, RunError) as error:
        return f"failed: {error}"
    return "done"


def compared(folder: Path, by: str) -> str:
    """Return the tables of a data set's runs, in Markdown."""
    metrics = METRICS if by == "seed" else METRICS[:2]
    options = [option for metric in metrics for option in ("--metric", metric)]
    command = [sys.executable, "-m", "famseg", "compare", str(folder), "--by", by]
    command += ["--baseline", "baseline", *options, "--markdown"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def page(runs: Path, seeds: int, facts: dict[str, str]) -> str:
    """Return the results as Markdown."""
    known = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    parts = [
        f"## {TITLES[data]}\n\n### Over seeds\n\n{compared(runs / data, 'seed')}\n\n"
        f"### Over test pictures\n\n{compared(runs / data, 'case')}"
        for data in DATA
    ]
    methods = "\n".join(
        f"- `{name}`: {' '.join(f'`{o}`' for o in options) or 'no change'}"
        for name, options in METHODS.items()
    )
    return f"""# Classification: baseline, SAM, FAM, weight decay of the head

Written by `benchmarks/classification_study.py` from trained runs:

{known}

A network of 65 thousand parameters, four epochs on at most 10,000 real pictures, {seeds} seeds;
the configurations are in [configs/study](../../configs/study), `study/<data set>.yaml` with

{methods}

The best of four epochs is chosen on a tenth of the training pictures; the test chooses nothing.
lambda is for kappa over the 64 features of the head, as in the authors' code. With {seeds} seeds no
paired test over seeds can fall below p = {2 / 2**seeds:g}; the tests over pictures speak of new
pictures for these very networks.

{chr(10).join(parts)}
"""


def main() -> None:
    """Train what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the four data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--out", type=Path, help="Markdown file of the results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time")
    options = parser.parse_args()
    facts = environment("cpu", 1, ["torch", "monai", "pytorch_optimizer"])
    # Worker processes load the libraries once for many trainings.
    with ProcessPoolExecutor(options.parallel) as pool:
        root = options.data.resolve()
        todo = list(cells(options.seeds))
        jobs = [pool.submit(train, cell, root, options.runs) for cell in todo]
        for cell, job in zip(todo, jobs, strict=True):
            say(f"{cell.data} {cell.method} seed {cell.seed}: {job.result()}")
    text = page(options.runs, options.seeds, facts)
    if options.out is None:
        print(text)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


if __name__ == "__main__":
    main()
