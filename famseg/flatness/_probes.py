"""Random probes as a pure function of where a run stands."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

Distribution = Literal["rademacher", "gaussian"]


def position_generator(seed: int, *position: int | str) -> torch.Generator:
    """Return a generator that depends on a seed and a position in a run, and on nothing else.

    A run that is resumed at a step draws what the uninterrupted run draws there, and neighbouring
    steps or processes draw independently: the seed and the position are mixed by a hash, whereas
    ``seed + step`` would repeat one run's probes in another.

    Args:
        seed: The run's seed.
        *position: Whatever tells one draw from another: step, process, purpose.

    Returns:
        A generator on the CPU, so that every device gets the same probes.
    """
    key = "/".join(map(str, (seed, *position))).encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Return independent signs, +1 or -1 with probability 1/2 each (Rademacher)."""
    coins = torch.randint(0, 2, shape, generator=generator, device=generator.device)
    return (2 * coins - 1).to(device=like.device, dtype=like.dtype)


def normals(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Return independent standard normal numbers."""
    # Drawn in one precision, so that a float64 check sees the probes of a float32 run.
    numbers = torch.randn(shape, generator=generator, device=generator.device)
    return numbers.to(device=like.device, dtype=like.dtype)


def part_of(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Return ``size`` of the numbers below ``n``, all choices equally likely, in order."""
    chosen = torch.randperm(n, generator=generator, device=generator.device)[:size]
    return chosen.sort().values
