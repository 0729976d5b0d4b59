"""Random numbers that depend only on the seed and the index of an image."""

from __future__ import annotations

import torch
from torch import Tensor

BITS = 32
"""Number of bits of each random integer."""

_MASK = (1 << 64) - 1
# The increment of the Weyl sequence and the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
_STEP = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST = 31


def random_bits(seed: int, index: Tensor, count: int) -> Tensor:
    """Return ``count`` independent uniform whole numbers for each index.

    Number ``k`` of an index is a hash of (seed, index, k): the same in any batch, on any device and
    in any process. Nothing is drawn from a generator and no state is kept.

    Args:
        seed: Seed, 0 or more.
        index: Indices of any kind, int64, shape ``(n,)``.
        count: How many numbers each index gets.

    Returns:
        int64 of 0 to ``2**32 - 1``, shape ``(n, count)``, on the device of ``index``.

    Example:
        >>> random_bits(0, torch.tensor([5, 6]), 2)
        tensor([[3492745531, 3087891754],
                [ 817845647, 1149216801]])
        >>> random_bits(0, torch.tensor([6]), 1)
        tensor([[817845647]])
    """
    key = _mixed_int(seed + _STEP)
    own = _mixed(index * _signed(_STEP) + _signed(key))
    steps = [_signed((number + 1) * _STEP) for number in range(count)]
    numbers = _mixed(own[:, None] + torch.tensor(steps, device=index.device))
    return numbers >> BITS & ((1 << BITS) - 1)


def below(bits: Tensor, bound: int) -> Tensor:
    """Return whole numbers of 0 to ``bound - 1`` from random bits.

    They are uniform up to ``bound / 2**32``.
    """
    return bits * bound >> BITS


def happens(bits: Tensor, probability: Tensor) -> Tensor:
    """Return whether an event with a given probability, float64, happens."""
    return bits < (probability * 2.0**BITS).long()


def _mixed(x: Tensor) -> Tensor:
    """Return the finalizer of int64 numbers, whose products wrap around like those of uint64."""
    for shift, factor in _ROUNDS:
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return x ^ _shifted(x, _LAST)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift to the right logically, since ``>>`` of int64 would extend the sign."""
    return x >> bits & ((1 << (64 - bits)) - 1)


def _mixed_int(x: int) -> int:
    x &= _MASK
    for shift, factor in _ROUNDS:
        x = (x ^ x >> shift) * factor & _MASK
    return x ^ x >> _LAST


def _signed(x: int) -> int:
    """Return the int64 with the same bits."""
    x &= _MASK
    return x - (1 << 64) if x >> 63 else x
