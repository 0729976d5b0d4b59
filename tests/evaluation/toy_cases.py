"""A small evaluation for test_evaluate.py, which also runs this file in several processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from famseg.engine import processes
from famseg.evaluation import Evaluation, evaluate


class Boxes(Dataset[Mapping[str, Any]]):
    """Boxes of different length with a corner cut off."""

    def __init__(self, cases: int, size: int = 12) -> None:
        self.cases, self.size = cases, size

    def __len__(self) -> int:
        return self.cases

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = np.zeros((self.size,) * 3, dtype=bool)
        label[2 : 5 + index, 2:8, 3:9] = True
        region = np.zeros_like(label)
        region[2:4, 5:9, 5:] = True
        channel = {"image": label & ~region, "label": label, "region": region}
        return {
            name: torch.from_numpy(mask.astype(np.float32))[None] for name, mask in channel.items()
        } | {
            "subject": f"box{index}",
            "spacing_mm": torch.tensor([2.0, 2.0, 2.0]),
            "affine": torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64)),
        }


def mean_box() -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask: np.ndarray[Any, np.dtype[np.bool_]] = Boxes(3)[1]["label"][0].numpy() > 0.5
    return mask


def predict(images: Tensor) -> Tensor:
    """Fill a part of the cut; miss the shortest box altogether."""
    if images.sum() < 90:
        return torch.zeros_like(images)
    return torch.maximum(images, 0.8 * images.roll(1, dims=2))


def run(folder: Path, **options: Any) -> Evaluation:
    sets = {"set1": Boxes(3), "set2": Boxes(1)}
    return evaluate(predict, sets, mean_box(), folder, **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes() as group:
        found = run(Path(sys.argv[1]), processes=group)
    print(len(found.rows), found.summary["set1"]["variance_ratio"])
