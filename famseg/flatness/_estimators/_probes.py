"""Random probes as a pure function of where a run stands."""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Literal

import torch
from torch import Tensor

Distribution = Literal["rademacher", "gaussian"]

_FEW = 512  # signs that one coin each is as fast for
# Where torch fills all 64 bits of a number: elsewhere some bits might be no fair coins.
_WORDS = ("cpu", "cuda")


def position_generator(
    seed: int, *position: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator that depends on a seed and a position in a run, and on nothing else.

    A run that is resumed at a step draws what the uninterrupted run draws there, and neighboring
    steps or processes draw independently: the seed and the position are mixed by a hash, whereas
    ``seed + step`` would repeat one run's probes in another.

    Args:
        seed: The run's seed.
        *position: Whatever tells one draw from another: step, process, purpose.
        device: Where the numbers are drawn: that of the layer, so that none has to be copied there.
            Each kind of device draws other numbers from one seed: of the same distribution, but a
            run is repeated to the last bit only on the kind of device that it ran on.

    Returns:
        A generator on the device.
    """
    key = "/".join(map(str, (seed, *position))).encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


def signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Return independent signs, +1 or -1 with probability 1/2 each (Rademacher).

    Many are taken from the bits of random words, 64 from each, eight at a time by a table: a
    hundredth of the random numbers, and hardly more than it takes to fill the memory. Drawn on the
    device of the generator, returned with the type and on the device of ``like``.
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
    # Drawn in one precision, so that a float64 check sees the probes of a float32 run.
    numbers = torch.randn(shape, generator=generator, device=generator.device)
    return numbers.to(device=like.device, dtype=like.dtype)


def part_of(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Return ``size`` of the numbers below ``n``, all choices equally likely, in order."""
    chosen = torch.randperm(n, generator=generator, device=generator.device)[:size]
    return chosen.sort().values


@functools.cache
def _signs_of_octets(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The eight bits of each number below 256 as signs, shape ``(256, 8)``."""
    with torch.inference_mode(False):  # kept for graphs of later on
        octets = torch.arange(256, device=device).unsqueeze(1)
        bits = octets >> torch.arange(8, device=device) & 1
        return (2 * bits - 1).to(dtype)
