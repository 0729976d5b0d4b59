"""Random probes that depend only on the seed and the position in a run."""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Literal

import torch
from torch import Tensor

Distribution = Literal["rademacher", "gaussian"]

_FEW = 512  # up to this many signs, one random number per sign is as fast
# Devices on which torch fills all 64 bits of an integer; elsewhere some bits may not be random.
_WORDS = ("cpu", "cuda")


def position_generator(
    seed: int, *position: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator that depends only on a seed and a position in a run.

    A run that is resumed at a step draws the same numbers as the uninterrupted run, and neighboring
    steps or ranks draw independently: seed and position are mixed by a hash, because ``seed +
    step`` would repeat the probes of one run in another.

    Args:
        seed: The run's seed.
        *position: Values that distinguish draws: step, rank, purpose.
        device: Device of the generator; that of the layer avoids a copy. Different kinds of device
            draw different numbers of the same distribution from one seed, so a run is repeated bit
            for bit only on the same kind of device.

    Returns:
        A generator on the device.
    """
    key = "/".join(map(str, (seed, *position))).encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


def signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    r"""Return independent signs, +1 or -1 with probability 1/2 each (Rademacher).

    Signs minimize the variance of Hutchinson's estimator among probes with independent entries:
    it is :math:`2 \sum_{i \ne j} H_{ij}^2`, without the diagonal that normal numbers add. Many
    signs come from the bits of random words, 64 from each, eight at a time by a table: this takes a
    hundredth of the random numbers and little more time than filling the memory. They are drawn on
    the device of the generator and returned with the type and on the device of ``like``.
    """
    n = math.prod(shape)
    device = generator.device
    if n < _FEW or device.type not in _WORDS:
        coins = torch.randint(0, 2, shape, generator=generator, device=device)
        return (2 * coins - 1).to(device=like.device, dtype=like.dtype)
    words = torch.empty(-(-n // 64), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)  # all 64 bits
    octets = words.to(like.device).view(torch.uint8).int()
    drawn = _signs_of_octets(like.dtype, like.device).index_select(0, octets)
    return drawn.flatten()[:n].reshape(shape)


def normals(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Return independent standard normal numbers."""
    # Always drawn in float32, so that a float64 check uses the same probes as a float32 run.
    numbers = torch.randn(shape, generator=generator, device=generator.device)
    return numbers.to(device=like.device, dtype=like.dtype)


def part_of(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Return a random sorted subset of ``size`` of the numbers below ``n``."""
    chosen = torch.randperm(n, generator=generator, device=generator.device)[:size]
    return chosen.sort().values


@functools.cache
def _signs_of_octets(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the eight bits of each number below 256 as signs, shape ``(256, 8)``."""
    with torch.inference_mode(False):  # cached for use in later graphs
        octets = torch.arange(256, device=device).unsqueeze(1)
        bits = octets >> torch.arange(8, device=device) & 1
        return (2 * bits - 1).to(dtype)
