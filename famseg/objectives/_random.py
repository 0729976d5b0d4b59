"""Random numbers that depend only on the position in a training."""

from __future__ import annotations

import hashlib

import torch


def generator_at(
    seed: int, *position: int | str, device: torch.device | None = None
) -> torch.Generator:
    """Return a generator that depends only on seed, position and type of device.

    A resumed run thus draws the same numbers at a step as an uninterrupted one. Seed and position
    are mixed by a hash, because torch's CPU generator uses only the lower 32 bits of a seed, so
    that concatenating the numbers would not distinguish runs.

    Args:
        seed: The run's seed.
        *position: Values that distinguish draws: a purpose, a step, a rank.
        device: Device of the generator, by default the CPU. Other types of devices draw different
            numbers.

    Example:
        >>> first, again = (torch.rand(1, generator=generator_at(0, "noise", 3)) for _ in range(2))
        >>> torch.equal(first, again)
        True
        >>> torch.equal(first, torch.rand(1, generator=generator_at(1, "noise", 3)))
        False
    """
    key = "/".join(map(str, (seed, *position))).encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    generator = torch.Generator("cpu" if device is None else device)
    return generator.manual_seed(int.from_bytes(digest, "little"))
