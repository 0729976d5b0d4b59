"""Layers for processors, compared with torch's own, in steps of the networks that have them.

python benchmarks/cpu_layers.py --out benchmarks/results/cpu_layers.md

A step is a forward and a backward pass at the size and batch of the shipped configuration. Both
networks have the same weights and take turns; a ratio is that of two turns next to each other.
Takes a minute on two cores, which nothing else should use.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from _measure import Spread, environment, table
from torch import nn

from famseg.models import ImplantNetwork, ShapeAutoencoder

_ROUNDS, _STEPS = 15, 4
NETWORKS = {
    "autoencoder, 64^3, batch 2": ShapeAutoencoder,
    "U-Net for implants, 64^3, batch 2": ImplantNetwork,
}


def with_torch_layers(network: nn.Module) -> nn.Module:
    """Return a copy whose layers are torch's."""
    copied = copy.deepcopy(network)
    for module in copied.modules():
        for kind in (nn.PReLU, nn.ConvTranspose3d):
            if isinstance(module, kind):
                module.__class__ = kind
    return copied


def seconds(network: nn.Module, skulls: torch.Tensor) -> float:
    """Return the mean time of a step, after one that is not counted."""
    for step in range(_STEPS + 1):
        if step == 1:
            begin = time.perf_counter()
        network.zero_grad()
        network(skulls).sigmoid().mean().backward()
    return (time.perf_counter() - begin) / _STEPS


def measured() -> str:
    """Measure everything and return it as Markdown."""
    rows = []
    for name, make in NETWORKS.items():
        torch.manual_seed(0)
        own, skulls = make(), (torch.rand(2, 1, 64, 64, 64) > 0.8).float()
        both = [with_torch_layers(own), own]
        turns = [[seconds(each, skulls) * 1e3 for each in both] for _ in range(_ROUNDS)]
        spreads = [Spread.of([turn[k] for turn in turns]) for k in (0, 1)]
        rows.append([name, *spreads, Spread.of([turn[1] / turn[0] for turn in turns])])
    return table(["network", "torch's layers, ms", "famseg, ms", "ratio"], rows)


def main() -> None:
    """Print the table, and write it if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="Markdown file")
    options = parser.parse_args()
    about = environment("cpu", torch.get_num_threads(), [])
    lines = "\n".join(f"- {name}: {value}" for name, value in about.items())
    text = f"""# Layers for processors

{lines}

A step is a forward and a backward pass: median (lower to upper quartile, number of turns).

{measured()}
"""
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
