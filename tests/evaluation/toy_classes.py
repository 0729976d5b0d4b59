"""A small classifier for test_classification.py, which also runs this file in several processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from famseg.engine import processes
from famseg.evaluation import evaluate_classification

CLASSES = ("ant", "bee", "cat")


class Points(Dataset[Mapping[str, Any]]):
    """Points of the plane, labeled in turn."""

    def __init__(self, samples: int, *, name: str, ready: bool = False) -> None:
        self.samples, self.name = samples, name
        generator = torch.Generator().manual_seed(len(name))
        self.labels = torch.arange(samples) % 3
        self.points = torch.randn(samples, 3, generator=generator) + 2 * torch.eye(3)[self.labels]
        if ready:  # as a set of images does: the batch comes out of the data set
            self.__getitems__ = self._batch

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.points[index],
            "label": self.labels[index],
            "subject": f"{self.name}-{index}",
        }

    def _batch(self, indices: list[int]) -> dict[str, Any]:
        return {
            "image": self.points[indices],
            "label": self.labels[indices],
            "subject": [f"{self.name}-{index}" for index in indices],
        }


def predict(points: Tensor) -> Tensor:
    """The points are the logits; those far out are too much for the network."""
    return torch.where(points.amax(1, keepdim=True) > 4.5, torch.nan, 2 * points)


def run(folder: Path, **options: Any) -> dict[str, Any]:
    sets = {"test": Points(23, name="test"), "train": Points(10, name="train")}
    options = {"classes": CLASSES, "batch_size": 4} | options
    return evaluate_classification(predict, options.pop("sets", sets), folder, **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes() as group:
        summary = run(Path(sys.argv[1]), processes=group)
    print(json.dumps(summary))
