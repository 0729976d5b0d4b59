"""Random numbers that depend only on the position in a training."""

from __future__ import annotations

import hashlib

import torch


def generator_at(
    seed: int, *position: int | str, device: torch.device | None = None
) -> torch.Generator:
    """Return a generator that depends only on seed, position and kind of device.

    A resumed run draws at a step what the uninterrupted one draws there. Seed and position are
    mixed by a hash: torch's generator on the CPU looks at the lower 32 bits of a seed only, so that
    numbers put side by side in 64 bits would not tell runs apart.

    Args:
        seed: The run's seed.
        *position: What tells one draw from another: a purpose, a step, a process.
        device: Where the numbers are drawn; the CPU unless given. Another kind of device draws
            other numbers.

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
