"""What the engine costs: training beside loops without it, SAM and FAM, in one run.

python benchmarks/training.py --out benchmarks/results/training.md

A turn is a training of one short epoch, data loading and augmentation included; contestants take
turns, and a ratio is taken to the mean of the plain turns before and after. Takes about fifteen
minutes on two cores, which nothing else should use; ``--quick`` shows in one that everything runs.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from _measure import Spread, environment, missing, say, table
from _training_scenes import (
    STEPS,
    Contestant,
    engine,
    image_loop,
    images,
    sentences,
    trainer,
)

FLATNESS = {"kind": "relative_flatness", "layer": "head", "lambda": 0.1}
# What is promised: samples a second beside the plain loop; time beside famseg's own baseline.
ENGINE, PENALTY = 0.97, 1.03


def classification(device: str, *, quick: bool) -> list[Contestant]:
    """Return the contestants on images; the plain loop first, famseg's baseline second."""
    batch = 32 if quick else 128
    make = partial(images, batch, network="convnet" if quick else "resnet18")
    return [
        Contestant("plain PyTorch loop", partial(image_loop, make(), device), batch),
        Contestant("famseg, baseline", partial(engine, make(), device), batch),
        Contestant(
            "famseg, FAM closed form", partial(engine, make(penalty=FLATNESS), device), batch
        ),
        Contestant("famseg, SAM", partial(engine, make(sam={"rho": 0.05}), device), batch),
    ]


def language(device: str, *, quick: bool) -> list[Contestant]:
    """Return the contestants on sentences; transformers' Trainer first."""
    batch = 8 if quick else 32
    size = {"layers": 1, "hidden": 32} if quick else {"layers": 6, "hidden": 384}
    make = partial(sentences, batch, **size)
    lacking = missing("transformers", "famseg[language]")
    return [
        Contestant("transformers Trainer", partial(trainer, make(), device), batch, lacking),
        Contestant("famseg, baseline", partial(engine, make(), device), batch, lacking),
        Contestant(
            "famseg, FAM closed form",
            partial(engine, make(penalty=FLATNESS), device),
            batch,
            lacking,
        ),
        Contestant("famseg, SAM", partial(engine, make(sam={"rho": 0.05}), device), batch, lacking),
    ]


def measured(title: str, contestants: Sequence[Contestant], rounds: int) -> list[dict[str, object]]:
    """Let contestants take turns; return their seconds a step and ratios to the first."""
    say(title)
    if any(one.missing for one in contestants):
        return [{"name": one.name, "missing": one.missing} for one in contestants]
    turns = {}
    for one in contestants:
        say(f"  {one.name}: warm-up")
        turns[one.name] = one.build()
        turns[one.name]()
    plain, *others = contestants
    seconds: dict[str, list[float]] = {one.name: [] for one in contestants}
    ratios: dict[str, list[float]] = {one.name: [] for one in contestants}
    before = turns[plain.name]()
    for number in range(rounds):
        say(f"  round {number + 1} of {rounds}")
        for one in others:
            own, after = turns[one.name](), turns[plain.name]()
            seconds[one.name].append(own)
            ratios[one.name].append(2 * own / (before + after))
            seconds[plain.name].append(after)
            ratios[plain.name].append(after / before)
            before = after
    return [
        {
            "name": one.name,
            "samples": one.samples,
            "seconds": seconds[one.name],
            "ratios": ratios[one.name],
        }
        for one in contestants
    ]


def page(scenes: dict[str, list[dict[str, object]]], facts: dict[str, str]) -> str:
    """Return the results as Markdown."""
    blocks = [_scene(title, rows) for title, rows in scenes.items()]
    known = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    return f"""# What the engine costs

Written in one run:

{known}

Spreads are `median (lower to upper quartile, number of turns)`. A turn is {STEPS} steps, of which
the first is not counted; data loading and augmentation are. Each turn stands between two of the
first contestant, and its ratio is taken to their mean; the ratio of the first contestant itself is
taken to its own turn before: what such a ratio can tell.

{chr(10).join(blocks)}"""


def _scene(title: str, rows: list[dict[str, object]]) -> str:
    if "missing" in rows[0]:
        return f"## {title}\n\nnot installed: {rows[0]['missing']}\n"
    base = Spread.of(rows[1]["ratios"]).median
    lines = []
    for number, row in enumerate(rows):
        seconds, ratio = Spread.of(row["seconds"]), Spread.of(row["ratios"])
        to_base = "" if number < 2 else f"{ratio.median / base:.3g}"
        lines.append(
            [
                row["name"],
                seconds,
                f"{row['samples'] / seconds.median:.4g}",
                ratio,
                f"{1 / ratio.median:.3g}",
                to_base,
                _promise(number, ratio.median, base),
            ]
        )
    head = ["training", "seconds a step", "samples/s", "time ratio", "speed ratio"]
    return f"## {title}\n\n{table([*head, 'time / famseg baseline', 'promised'], lines)}\n"


def _promise(number: int, ratio: float, base: float) -> str:
    if number == 1:
        return f"speed >= {ENGINE}: {'held' if 1 / ratio >= ENGINE else 'missed'}"
    if number == 2:
        return f"time <= {PENALTY} x baseline: {'held' if ratio / base <= PENALTY else 'missed'}"
    return ""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="Markdown file; the numbers go beside it as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="show that everything runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("famseg").setLevel(logging.WARNING)
    packages = ["torch", "monai", "pytorch_optimizer", "transformers"]
    facts = environment(options.device, options.threads, packages)
    rounds = 1 if options.quick else options.rounds
    first = "a small network" if options.quick else "ResNet18, 32 x 32, batch 128, crop and flip"
    second = "a small BERT" if options.quick else "BERT of 6 layers of 384, batch 32 of 128 tokens"
    scenes = {
        title: measured(title, build(options.device, quick=options.quick), rounds)
        for title, build in ((first, classification), (second, language))
    }
    facts["command"] = (
        f"python benchmarks/training.py --rounds {rounds} --threads {options.threads} "
        f"--device {options.device}"
    )
    text = page(scenes, facts)
    if options.out is None:
        print(text)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    numbers = {"environment": facts, "scenes": scenes}
    options.out.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
