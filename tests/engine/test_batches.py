from __future__ import annotations

import pytest
from torch.utils.data import DistributedSampler

from famseg.engine import Batches


def parts(samples: int, batch_size: int, world: int, epochs: int = 2) -> list[Batches]:
    return [
        Batches(samples, batch_size, epochs=epochs, seed=3, rank=rank, world=world)
        for rank in range(world)
    ]


def test_an_epoch_holds_every_sample_once_in_the_order_of_the_distributed_sampler() -> None:
    batches = Batches(7, 3, epochs=2, seed=3)
    indices = [index for batch in batches for index in batch]
    order = DistributedSampler(range(7), num_replicas=1, rank=0, seed=3)
    expected = []
    for epoch in range(2):
        order.set_epoch(epoch)
        expected += [epoch * 7 + sample for sample in order]
    assert indices == expected
    assert sorted(indices) == list(range(14))


@pytest.mark.parametrize(("samples", "batch_size", "world"), [(7, 4, 2), (8, 4, 2), (10, 6, 4)])
def test_the_shares_of_all_processes_make_up_the_batch(
    samples: int, batch_size: int, world: int
) -> None:
    whole = list(Batches(samples, batch_size, epochs=2, seed=3))
    dealt = [list(part) for part in parts(samples, batch_size, world)]
    for step, batch in enumerate(whole):
        shares = [part.share(step) for part in parts(samples, batch_size, world)]
        own = [dealt[rank][step] for rank in range(world)]
        assert sorted(i for s, b in zip(shares, own, strict=True) if s for i in b) == sorted(batch)
        # The average over processes of (share * mean over own samples) is the mean over the batch.
        value = sum(s * sum(b) / len(b) for s, b in zip(shares, own, strict=True)) / world
        assert value == pytest.approx(sum(batch) / len(batch))


def test_a_process_without_a_sample_repeats_one_with_factor_zero() -> None:
    # Nine samples in batches of four: one sample is left for three processes.
    shares = [part.share(2) for part in parts(9, 4, 3)]
    assert shares == [3.0, 0.0, 0.0]
    assert all(len(list(part)[2]) == 1 for part in parts(9, 4, 3))


def test_the_start_skips_steps_and_the_length_says_so() -> None:
    whole = Batches(5, 2, epochs=3, seed=0)
    rest = Batches(5, 2, epochs=3, seed=0, start=4)
    assert list(rest) == list(whole)[4:]
    assert len(rest) == len(list(rest)) == 5


def test_batches_of_like_length_hold_every_sample_once_in_a_random_order_of_lengths() -> None:
    lengths = [3 * (sample % 9) + 1 for sample in range(23)]
    options = {"epochs": 2, "seed": 3, "lengths": lengths}
    batches = [[index % 23 for index in batch] for batch in Batches(23, 4, **options)]
    first, second = batches[:6], batches[6:]
    for epoch in (first, second):
        assert sorted(sample for batch in epoch for sample in batch) == list(range(23))
        assert [len(batch) for batch in epoch] == [4] * 5 + [3]
        spans = [max(map(lengths.__getitem__, b)) - min(map(lengths.__getitem__, b)) for b in epoch]
        assert max(spans) <= 6  # the lengths span 24
    shortest = [min(map(lengths.__getitem__, batch)) for batch in first[:5]]
    assert shortest != sorted(shortest)
    assert first != second
    dealt = [list(Batches(23, 4, **options, rank=rank, world=2)) for rank in (0, 1)]
    whole = list(Batches(23, 4, **options))
    assert all(
        sorted(a + b) == sorted(c) for a, b, c in zip(*dealt, whole, strict=True) if len(c) > 1
    )


def test_lengths_of_other_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"there are 2 lengths for 3 samples"):
        Batches(3, 2, epochs=1, seed=0, lengths=[1, 2])


def test_whole_batches_of_an_epoch_are_dealt_out() -> None:
    alone = Batches(11, 3, epochs=2, seed=4)
    order = list(alone)
    assert alone.dealt(0) + alone.dealt(1) == order
    of = [Batches(11, 3, epochs=9, seed=4, rank=rank, world=3, start=5) for rank in range(3)]
    assert [part.dealt(1) for part in of] == [order[4:][rank::3] for rank in range(3)]
