"""Cases dealt out to processes unevenly, for test_monai.py, which runs this file in several."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from famseg.engine import processes
from famseg.evaluation import SkullMetric


def case(index: int) -> tuple[Tensor, Tensor]:
    """Two boxes, of which the predicted one is shifted; case 3 is missed."""
    truth = torch.zeros(1, 12, 12, 12)
    truth[:, 2:8, 2:7, 2:6] = 1
    prediction = truth.roll(index, dims=1) if index != 3 else torch.zeros_like(truth)
    return prediction, truth


def figures(cases: list[int], epochs: int = 2) -> list[Any]:
    """Score cases in each epoch; in the second the first process has none."""
    metric = SkullMetric(("dsc", "hd95_mm"), spacing_mm=(1.0, 1.0, 2.0))
    found = []
    for epoch in range(epochs):
        metric.reset()
        rank = dist.get_rank() if dist.is_initialized() else 0
        world = dist.get_world_size() if dist.is_initialized() else 1
        share = cases[rank::world] if epoch == 0 else cases * (rank == world - 1)
        for index in share:
            metric(*([each] for each in case(index)))
        found += [metric.report(), metric.aggregate().tolist(), len(metric)]
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes() as group:
        result = figures(list(range(5)))
    print(json.dumps(result))
