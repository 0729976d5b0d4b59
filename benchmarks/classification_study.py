"""Baseline, SAM, FAM and weight decay of the head on real pictures: a small, honest comparison.

python benchmarks/classification_study.py DATA --out docs/results/classification.md

DATA holds the folders cifar10, cifar100, svhn and fashionmnist in their original formats. Trains
each of configs/study with each method and seed by ``famseg train``, about half a minute of one core
a run; what is finished is kept, so the same command goes on where it stopped. Nothing is chosen by
the test: settings and lambdas were fixed before the first run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from _measure import environment, say

DATA = ("cifar10", "cifar100", "svhn", "fashionmnist")
_FAM = ("penalty.kind=relative_flatness", "penalty.layer=head")
METHODS = {
    "baseline": (),
    "sam": ("sam.rho=0.05",),
    "fam0.01": (*_FAM, "lambda=0.01"),
    "fam0.1": (*_FAM, "lambda=0.1"),
    "fam1": (*_FAM, "lambda=1"),
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

    def command(self, root: Path, runs: Path) -> list[str]:
        """Return the command that trains it, or goes on with it."""
        return [
            *_famseg("train", "--config", f"study/{self.data}", "--resume"),
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


def train(cell: Cell, root: Path, runs: Path) -> None:
    """Train one cell; a failure is said and leaves the others alone."""
    done = subprocess.run(cell.command(root, runs), capture_output=True, text=True, check=False)
    last = (done.stderr if done.returncode else done.stdout).strip().splitlines()[-1:]
    say(
        f"{cell.data} {cell.method} seed {cell.seed}: {'failed: ' if done.returncode else 'done'}"
        f"{''.join(last) if done.returncode else ''}"
    )


def compared(folder: Path, by: str) -> str:
    """Return the tables of a data set's runs, in Markdown."""
    metrics = METRICS if by == "seed" else METRICS[:2]
    options = [option for metric in metrics for option in ("--metric", metric)]
    command = _famseg("compare", str(folder), "--by", by, "--baseline", "baseline", *options)
    done = subprocess.run([*command, "--markdown"], capture_output=True, text=True, check=True)
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
kappa is that of the head (`normalize: none`). With {seeds} seeds no paired test over seeds can fall
below p = {2 / 2**seeds:g}; the tests over pictures speak of new pictures for these very networks.

{chr(10).join(parts)}
"""


def _famseg(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "famseg", *arguments]


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
    with ThreadPoolExecutor(options.parallel) as pool:
        root = options.data.resolve()
        jobs = [pool.submit(train, cell, root, options.runs) for cell in cells(options.seeds)]
        for job in jobs:
            job.result()
    text = page(options.runs, options.seeds, facts)
    if options.out is None:
        print(text)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


if __name__ == "__main__":
    main()
