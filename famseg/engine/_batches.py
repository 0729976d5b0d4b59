"""The order of the samples: a pure function of seed, epoch and step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DistributedSampler, Sampler

# Number of batches in a pool from which samples of similar length are selected.
_POOL = 50


class Batches(Sampler[list[int]]):
    """Batches of all epochs, one after the other, for one rank.

    An index is ``epoch * n + sample``, so that a data set can derive its randomness (defects,
    augmentation) from seed, epoch and sample. The order is that of torch's ``DistributedSampler``.
    One iterator serves the whole run: workers continue across epochs, and a resumed run starts at
    any step without loading earlier batches.

    ``batch_size`` is the total over all ranks: a run on N ranks uses the same batches as a single
    process. The samples of a batch are distributed round-robin to the ranks. If they do not divide
    evenly, :meth:`share` is the factor that makes DDP's average over ranks the mean over the batch;
    a rank without a sample repeats one with factor 0. ``DistributedSampler`` itself would fill the
    last batch with repeated samples instead, which changes the gradient.

    With ``lengths``, samples in a batch have similar lengths, which reduces padding: pools of 50
    batches in random order are sorted by length, divided into batches, and these are shuffled.

    Args:
        samples: Size of the data set.
        batch_size: Samples per batch, over all ranks.
        epochs: Number of epochs.
        seed: Seed of the order.
        rank: Number of this process.
        world: Number of processes.
        start: First step to return, from 0.
        lengths: Length of each sample, for batches of similar length; None for a random order.

    Example:
        >>> batches = Batches(3, 2, epochs=2, seed=0)
        >>> [len(batch) for batch in batches], batches.per_epoch
        ([2, 1, 2, 1], 2)
        >>> list(Batches(3, 2, epochs=2, seed=0, start=3)) == list(batches)[3:]
        True
        >>> grouped = Batches(4, 2, epochs=1, seed=0, lengths=[9, 1, 9, 1])
        >>> sorted(sorted(batch) for batch in grouped)
        [[0, 2], [1, 3]]
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        *,
        epochs: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        lengths: Sequence[int] | None = None,
    ) -> None:
        if lengths is not None and len(lengths) != samples:
            raise ValueError(f"there are {len(lengths)} lengths for {samples} samples.")
        self.samples = samples
        self.batch_size = batch_size
        self.epochs = epochs
        self.rank = rank
        self.world = world
        self.start = start
        self.seed = seed
        self.lengths = lengths
        # It only needs the length of a data set.
        self._order: DistributedSampler[int] = DistributedSampler(
            range(samples),  # type: ignore[arg-type]
            num_replicas=1,
            rank=0,
            seed=seed,
        )

    @property
    def per_epoch(self) -> int:
        """Batches per epoch, the last one possibly smaller."""
        return -(-self.samples // self.batch_size)

    def size(self, step: int) -> int:
        """Return the number of samples of a step's batch over all processes."""
        begin = step % self.per_epoch * self.batch_size
        return min(self.batch_size, self.samples - begin)

    def share(self, step: int) -> float:
        """Return the factor of this process's mean loss in a step."""
        own = len(range(self.rank, self.size(step), self.world))
        return own * self.world / self.size(step)

    def dealt(self, epoch: int) -> list[list[int]]:
        """Return this rank's share of an epoch's batches, as whole batches; epochs start at 0."""
        whole = Batches(
            self.samples,
            self.batch_size,
            epochs=epoch + 1,
            seed=self.seed,
            start=epoch * self.per_epoch,
            lengths=self.lengths,
        )
        return list(whole)[self.rank :: self.world]

    def __len__(self) -> int:
        return self.epochs * self.per_epoch - self.start

    def __iter__(self) -> Iterator[list[int]]:
        first, skip = divmod(self.start, self.per_epoch)
        for epoch in range(first, self.epochs):
            self._order.set_epoch(epoch)
            order = [epoch * self.samples + sample for sample in self._of_like_length(epoch)]
            begins = range(0, self.samples, self.batch_size)
            for begin in begins[skip if epoch == first else 0 :]:
                batch = order[begin : begin + self.batch_size]
                yield batch[self.rank :: self.world] or batch[-1:]

    def _of_like_length(self, epoch: int) -> list[int]:
        """Return an epoch's samples, with batches of similar length if lengths are known."""
        order = list(self._order)
        lengths, batch = self.lengths, self.batch_size
        if lengths is None:
            return order
        generator = torch.Generator().manual_seed((self.seed << 32) + epoch)
        grouped: list[int] = []
        for begin in range(0, len(order), _POOL * batch):
            pool = sorted(order[begin : begin + _POOL * batch], key=lambda sample: lengths[sample])
            full = len(pool) // batch
            for number in torch.randperm(full, generator=generator).tolist():
                grouped += pool[number * batch : (number + 1) * batch]
            # An incomplete batch is the last of the epoch, as without lengths.
            grouped += pool[full * batch :]
        return grouped
