from __future__ import annotations

import pytest
import torch
from torch import Tensor

from famseg.datasets.images._augment_random import below, happens, random_bits

INDEX = torch.arange(20_000)
DRAWS = 12
WORD = 2**64


def splitmix(state: int) -> int:
    """Return the next number of SplitMix64 as in the authors' code, in integers."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def excess(counts: Tensor) -> float:
    """Return by how many standard deviations a chi-square statistic lies above its mean."""
    expected = counts.sum() / counts.numel()
    freedom = counts.numel() - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return ((statistic - freedom) / (2 * freedom) ** 0.5).item()


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_the_numbers_are_those_of_splitmix(seed: int) -> None:
    index = torch.tensor([0, 1, 49_999, 2**40])
    step = 0x9E3779B97F4A7C15
    expected = []
    for i in index.tolist():
        own = splitmix(splitmix(seed) + (i - 1) * step)
        expected.append([splitmix(own + k * step) >> 32 for k in range(3)])
    assert random_bits(seed, index, 3).tolist() == expected


def test_each_bit_and_byte_is_uniform() -> None:
    bits = random_bits(3, INDEX, DRAWS)
    assert bits.min() >= 0
    assert bits.max() < 2**32
    for shift in range(32):
        ones = (bits >> shift & 1).sum(0).double()
        deviation = (ones - len(INDEX) / 2) / (len(INDEX) / 4) ** 0.5
        assert deviation.abs().max() < 4.5  # 384 of them
    for shift in (0, 8, 16, 24):
        for number in range(DRAWS):
            counts = torch.bincount(bits[:, number] >> shift & 255, minlength=256).double()
            assert abs(excess(counts)) < 4.5


def test_numbers_of_a_image_of_neighbors_and_of_seeds_are_independent() -> None:
    bits = random_bits(0, INDEX, DRAWS) >> 28
    pairs = [(bits[:, a], bits[:, b]) for a in range(DRAWS) for b in range(a)]
    pairs += [(bits[:-1, a], bits[1:, a]) for a in range(DRAWS)]  # the next image
    pairs += [(bits[:-10_000, a], bits[10_000:, a]) for a in range(DRAWS)]  # the next epoch
    other = random_bits(1, INDEX, DRAWS) >> 28
    pairs += [(bits[:, a], other[:, a]) for a in range(DRAWS)]
    for first, second in pairs:
        counts = torch.bincount(first * 16 + second, minlength=256).double()
        assert abs(excess(counts)) < 4.5


def test_a_image_has_the_same_numbers_in_any_batch() -> None:
    whole = random_bits(5, INDEX[:50], 4)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(random_bits(5, INDEX[order], 4), whole[order])
    assert torch.equal(random_bits(5, INDEX[7:8], 9)[:, :4], whole[7:8])  # more of them, too


def test_numbers_below_a_bound_and_events() -> None:
    bits = random_bits(0, INDEX, 1)[:, 0]
    numbers = below(bits, 9)
    assert sorted(set(numbers.tolist())) == list(range(9))
    assert abs(excess(torch.bincount(numbers).double())) < 4
    assert below(torch.tensor([0, 2**32 - 1]), 7).tolist() == [0, 6]
    for probability in (0.0, 0.3, 1.0):
        happened = happens(bits, torch.tensor(probability, dtype=torch.float64)).double()
        spread = (probability * (1 - probability) / len(INDEX)) ** 0.5
        assert abs(happened.mean() - probability) <= 4 * spread
