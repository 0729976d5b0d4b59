"""How fast batches of images are augmented, compared with one image at a time in Pillow.

python benchmarks/augmentation.py --out benchmarks/results/augmentation.md

Both pipelines feed a training loop from a DataLoader without workers, take turns in one run and end
with normalized float batches. Takes about a minute on one core; ``--quick`` shows in a few seconds
that everything runs.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _augmentation_pillow import PillowSet
from _measure import Contestant, Spread, Step, environment, say, table, timings
from torch.utils.data import DataLoader

from famseg.datasets import Augmentation, Images, ImageSet
from famseg.files import write_atomically

TARGET = 5.0
_EDGE, _BATCH = 32, 128
_CROP, _CUTOUT = 4, 16
_MEAN, _STD = [0.44, 0.44, 0.47], [0.20, 0.20, 0.20]  # about those of SVHN
_SETTINGS: Mapping[str, str | None] = {
    "crop 4, flip, cutout 16": None,
    "AutoAugment (SVHN), crop 4, flip, cutout 16": "svhn",
    "AutoAugment (CIFAR-10), crop 4, flip, cutout 16": "cifar10",
}
_ASKED = list(_SETTINGS)[:2]
_PILLOW, _OURS = "Pillow, one image at a time", "famseg, whole batches"


@dataclasses.dataclass(frozen=True)
class Row:
    """A pipeline in a setting.

    Attributes:
        per_second: Images per second.
        faster: Speedup over the Pillow turns before and after.
    """

    setting: str
    name: str
    per_second: Spread
    faster: Spread
    faster_cpu: Spread


def pillow(policy: str | None, batches: int) -> Step:
    """Return an epoch of the conventional pipeline."""
    pixels, labels = _images(batches)
    data = PillowSet(
        np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)),
        labels,
        mean=_MEAN,
        std=_STD,
        crop=_CROP,
        cutout=_CUTOUT,
        policy=policy,
    )
    loader = DataLoader(data, batch_size=_BATCH, shuffle=True)

    def run() -> None:
        for images, _ in loader:
            _check(images)

    return Step(run)


def ours(policy: str | None, batches: int) -> Step:
    """Return an epoch of whole batches."""
    data = ImageSet(Images(*_images(batches)), prefix="train", training=True)
    augment = Augmentation(
        mean=_MEAN,
        std=_STD,
        seed=0,
        crop=_CROP,
        flip=True,
        cutout=_CUTOUT,
        autoaugment=policy or "none",
    )
    loader = DataLoader(data, batch_size=_BATCH, shuffle=True, collate_fn=_as_it_is)

    def run() -> None:
        for batch in loader:
            _check(augment(batch)["image"])

    return Step(run)


def measured(rounds: int, batches: int) -> list[Row]:
    """Measure both pipelines in turns in every setting."""
    rows = []
    for setting, policy in _SETTINGS.items():
        say(setting)
        contestants = [
            Contestant(_PILLOW, partial(pillow, policy, batches)),
            Contestant(_OURS, partial(ours, policy, batches)),
        ]
        for name, timing in timings(contestants, rounds, "cpu").items():
            rows.append(
                Row(
                    setting,
                    name,
                    Spread.of(batches * _BATCH / seconds for seconds in timing.seconds),
                    Spread.of(1 / ratio for ratio in timing.ratios),
                    Spread.of(1 / ratio for ratio in timing.cpu_ratios),
                )
            )
    return rows


def page(surroundings: Mapping[str, str], rows: list[Row]) -> str:
    """Return the page."""
    facts = "\n".join(f"- {key}: {value}" for key, value in surroundings.items())
    lines = [
        [row.setting, row.name, row.per_second, row.faster, row.faster_cpu, _verdict(row)]
        for row in rows
    ]
    head = ["pipeline", "way", "images/s", "times as fast", "the same in CPU time", "promised"]
    return f"""# What augmentation costs

Written in one run:

{facts}

Images of 3 x {_EDGE} x {_EDGE} random bytes in batches of {_BATCH}, from a DataLoader without
workers to normalized float32 batches, one thread. Spreads are `median (lower to upper quartile,
number of turns)`. Each turn of famseg lies between two of Pillow, and its ratio is taken to their
mean; the ratio of Pillow is taken to its own turn before, so that its quartiles show what such a
ratio can tell. `tests/datasets/images/test_augment_policy.py` shows that both make the same
images.

{table(head, lines)}"""


def _verdict(row: Row) -> str:
    if row.name != _OURS or row.setting not in _ASKED:
        return ""
    return f">= {TARGET:g}: {'held' if row.faster.median >= TARGET else 'missed'}"


def _images(batches: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    n = batches * _BATCH
    pixels = random.integers(0, 256, (n, 3, _EDGE, _EDGE), dtype=np.uint8)
    return pixels, random.integers(0, 10, n)


def _as_it_is(batch: object) -> object:
    return batch


def _check(images: torch.Tensor) -> None:
    if images.shape != (_BATCH, 3, _EDGE, _EDGE) or images.dtype != torch.float32:
        raise RuntimeError(f"not a batch to train on: {images.shape}, {images.dtype}")


def main() -> None:
    """Measure, print the page and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="page to write; the numbers go beside it as JSON")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each")
    parser.add_argument("--quick", action="store_true", help="short: does it run?")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    surroundings = environment("cpu", 1, ["torch", "pillow", "numpy"]) | {
        "command": " ".join(["python", "benchmarks/augmentation.py", *sys.argv[1:]]),
    }
    rounds, batches = (2, 1) if arguments.quick else (arguments.rounds, 8)
    rows = measured(rounds, batches)
    text = page(surroundings, rows)
    print(text)
    if arguments.out:
        numbers = {"environment": surroundings, "rows": [dataclasses.asdict(row) for row in rows]}
        write_atomically(arguments.out, f"{text}\n".encode())
        content = json.dumps(numbers, indent=1) + "\n"
        write_atomically(arguments.out.with_suffix(".json"), content.encode())


if __name__ == "__main__":
    main()
