from __future__ import annotations

import torch
from torch import nn

from famseg.engine._network import weights_hash


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def test_the_hash_is_that_of_values_whatever_their_order_in_memory() -> None:
    one = weights_hash(network(0))
    assert weights_hash(network(0).to(memory_format=torch.channels_last)) == one
    assert weights_hash(network(1)) != one


def test_buffers_names_and_types_count() -> None:
    one, moved = network(0), network(0)
    moved[1].running_mean += 1  # type: ignore[operator]
    found = [one, moved, nn.Sequential(nn.Identity(), *network(0)), network(0).to(torch.bfloat16)]
    assert len({weights_hash(each) for each in found}) == len(found)
