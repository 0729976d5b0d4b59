"""Baseline, SAM, FAM and weight decay of the head on real images: a small, honest comparison.

python benchmarks/classification_study.py DATA --out docs/results/classification.md

DATA holds the folders cifar10, cifar100, svhn and fashionmnist in their original formats. Trains
each of configs/study with each method and seed as ``famseg train --resume`` does, about half a
minute of one core a run; what is finished is kept, so the same command resumes where it stopped.
Nothing is chosen by the test: settings and lambdas were fixed before the first run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from _measure import environment, say, table

from famseg.config import load
from famseg.messages import InputError, RunError
from famseg.reporting import Comparison, Pairing, compare_runs, find_runs, markdown, tables

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
    """Yield all trainings, seed by seed, so that an interruption leaves complete comparisons."""
    for seed in range(seeds):
        for data in DATA:
            for method in METHODS:
                yield Cell(data, method, seed)


def train(cell: Cell, root: Path, runs: Path) -> str:
    """Train one cell or resume it; a failure is printed and does not affect the others."""
    from famseg.engine import Processes, Session, stop_on_signals

    try:
        pipeline, config = load(f"study/{cell.data}", cell.overrides(root, runs))
        with stop_on_signals() as stop:
            session = Session(pipeline.build, config, processes=Processes(), stop=stop)
            session.run(resume=True)
    except (InputError, RunError) as error:
        return f"failed: {error}"
    return "done"


def compared(folder: Path, by: Literal["seed", "case"]) -> Comparison:
    """Return the comparison of a data set's runs with its baseline."""
    metrics = METRICS if by == "seed" else METRICS[:2]
    runs = find_runs([folder]).runs
    return compare_runs(runs, metrics=metrics, baseline="baseline", by=by)[0]


def summary(comparisons: dict[str, tuple[Comparison, Comparison]]) -> str:
    """Return one table of all sets: accuracy over seeds, and differences to the baseline."""
    metric, rows = METRICS[0], []
    for data, both in comparisons.items():
        for group in both[0].study.groups:
            figures = both[0].figures[group.name, metric]
            half = "-" if figures.low is None else f"{figures.mean - figures.low:.4f}"
            row = [TITLES[data], group.name, f"{figures.mean:.4f} ± {half}"]
            row.append(f"{figures.n}, {len(group.unfinished)}")
            seeds, images = (one.pairings.get((group.name, metric)) for one in both)
            row += [_difference(seeds), _difference(images)]
            rows.append(row)
    head = ["data", "method", "test accuracy, mean ± 95 % CI", "n, not finished"]
    return table([*head, "difference over seeds", "difference over pictures"], rows)


def _difference(found: Pairing | None) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    p = "p < 0.0001" if found.p_holm < 1e-4 else f"p = {found.p_holm:.4f}"
    return f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f}), {p}"


def sections(seeds: Comparison, images: Comparison) -> str:
    """Return all tables of a data set; of the second comparison only the new rows."""
    known = {each.title for each in tables(seeds)}
    new = [each for each in tables(images) if each.title not in known]
    return f"### Over seeds\n\n{markdown(tables(seeds))}\n\n### Over test images\n\n{markdown(new)}"


def page(runs: Path, seeds: int, facts: dict[str, str]) -> str:
    """Return the results as Markdown."""
    known = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    found = {data: (compared(runs / data, "seed"), compared(runs / data, "case")) for data in DATA}
    parts = [f"## {TITLES[data]}\n\n{sections(*both)}\n" for data, both in found.items()]
    methods = "\n".join(
        f"- `{name}`: {' '.join(f'`{o}`' for o in options) or 'no change'}"
        for name, options in METHODS.items()
    )
    return f"""# Classification: baseline, SAM, FAM, weight decay of the head

**These networks underfit.** After four epochs the training accuracy of the baselines is within 0.02
of the test accuracy (`test/gap` below): there is no gap that a regularizer could close, and nearly
every penalty can only cost accuracy. This page shows how to run a comparison, and which lambdas are
too strong. **It says nothing about whether FAM, SAM or weight decay generalize better**: for that,
networks have to fit their training data, as in [benchmarks/study](../../benchmarks/study).

Written by `benchmarks/classification_study.py` from trained runs:

{known}

A network of 65 thousand parameters, four epochs on at most 10,000 real images, {seeds} seeds;
the configurations are in [configs/study](../../configs/study), `study/<data set>.yaml` with

{methods}

The best of four epochs is chosen on a tenth of the training images; the test chooses nothing.
lambda is for kappa over the 64 features of the head, as in the authors' code. With {seeds} seeds no
paired test over seeds can fall below p = {2 / 2**seeds:g}; the tests over images speak of new
images for these very networks, each score the mean over the seeds. Differences are those to the
baseline with their 95 % interval, and p adjusted by Holm for the five methods of a set.

{summary(found)}

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
