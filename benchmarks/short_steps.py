"""Overhead of FAM in short steps: a fixed cost in milliseconds of processor time.

python benchmarks/short_steps.py --out benchmarks/results/short_steps.md

The closed form at a head needs a few small operations; the rest is bookkeeping, which determines
the cost on a GPU, where the work of a step is asynchronous. The steps take turns in one process;
results are medians over the turns. Takes half a minute on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _measure import Spread, environment
from torch import Tensor, nn

from famseg.flatness import FAM, cross_entropy_flatness

_PROMISED = {0: 0.5, 100: 0.8}  # ms at most, by the number of blocks
_WARM, _STEPS, _TURNS = 10, 100, 9


def network(blocks: int) -> nn.Sequential:
    """Return a classifier of 64 features with a number of blocks of three modules."""
    middle = [m for _ in range(blocks) for m in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())]
    ends = nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 10)
    return nn.Sequential(nn.Linear(64, 16), *middle, *ends)


def steps(blocks: int) -> tuple[str, dict[str, Callable[[], Tensor]]]:
    """Return a network's size and functions for the total of a plain, a manual and a FAM step."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 64), torch.randint(10, (64,))
    model, loss = network(blocks), nn.CrossEntropyLoss()
    objective = FAM(model, layer=str(len(model) - 1), loss=loss, weight=0.1)

    def by_hand() -> Tensor:
        features = model[:-1](inputs)
        logits = model[-1](features)
        kappa = cross_entropy_flatness(features, logits, targets, model[-1].weight).mean()
        total: Tensor = loss(logits, targets) + 0.1 * kappa
        return total

    return f"{len(list(model.modules()))} modules", {
        "plain step": lambda: loss(model(inputs), targets),
        "closed form by hand": by_hand,
        "FAM": lambda: objective(inputs, targets).total,
    }


def milliseconds(step: Callable[[], Tensor]) -> float:
    """Return the processor time of one step, including the backward pass."""
    for _ in range(_WARM):
        step().backward()
    begin = time.process_time()
    for _ in range(_STEPS):
        step().backward()
    return (time.process_time() - begin) / _STEPS * 1e3


def table() -> str:
    """Measure everything and return it as Markdown."""
    rows = [
        "| network | plain step, ms | by hand adds, ms | FAM adds, ms | promised |",
        "| --- | --- | --- | --- | --- |",
    ]
    for blocks in (0, 100):
        name, turns = steps(blocks)
        taken = [{key: milliseconds(step) for key, step in turns.items()} for _ in range(_TURNS)]
        plain = Spread.of([turn["plain step"] for turn in taken])
        hand, fam = (
            Spread.of([turn[key] - turn["plain step"] for turn in taken])
            for key in ("closed form by hand", "FAM")
        )
        found = statistics.median(turn["FAM"] - turn["plain step"] for turn in taken)
        limit = _PROMISED[blocks]
        held = f"<= {limit}: {'held' if found <= limit else 'missed'}"
        rows.append(f"| {name} | {plain} | {hand} | {fam} | {held} |")
    return "\n".join(rows)


def main() -> None:
    """Print the table, and write it if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="Markdown file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    surroundings = environment("cpu", 1, ["torch"])
    lines = [f"- {key}: {value}" for key, value in surroundings.items()]
    text = "\n".join(
        [
            "# What FAM adds to a short step",
            "",
            *lines,
            "",
            "Processor time, backward included: median (lower to upper quartile, number of turns).",
            "",
            table(),
            "",
        ]
    )
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
