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
