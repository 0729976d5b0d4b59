"""Loaders of batches, which also work if ``/dev/shm`` is too small for their workers."""

from __future__ import annotations

import io
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from famseg.engine._batches import Batches
from famseg.engine._experiment import Experiment
from famseg.engine._signals import calm_worker

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only its size is read
# Torch's default number of batches that each worker prefetches.
_PREFETCH = 2
# What processes share to wait for each other takes a page each: 8 for a loader, 3 for each worker;
# a training has a loader of its own, one for validation, and now and then another.
_PAGE, _LOADERS = 4096, 3

_logger = logging.getLogger("famseg")


def training_loader(
    experiment: Experiment,
    batches: Batches | Sequence[list[int]],
    *,
    workers: int,
    pin_memory: bool,
) -> DataLoader[Any]:
    """Return the loader of an experiment's training batches; see `batch_loader`.

    Args:
        experiment: The task.
        batches: The samples of each batch.
        workers: Worker processes that load data; 0 for this one.
        pin_memory: Whether batches are put into pinned memory, from which a GPU copies faster.
    """
    return batch_loader(
        experiment.train,
        batches,
        collate=experiment.collate,
        workers=workers,
        pin_memory=pin_memory,
        speaks=isinstance(batches, Batches) and batches.rank == 0,
    )


def batch_loader(
    data: Dataset[Any],
    batches: Batches | Sequence[list[int]],
    *,
    collate: Callable[[Any], Any] | None,
    workers: int,
    pin_memory: bool,
    speaks: bool,
) -> DataLoader[Any]:
    """Return a loader of batches.

    Workers transfer batches in ``/dev/shm``, of which docker gives a container 64 MB. If it is
    full, the training crashes, regardless of torch's sharing strategy. If it is too small for all
    prefetched batches, they are transferred through pipes, with a warning; if it is too small for
    the locks of workers, there are none.

    Args:
        data: The samples.
        batches: Which samples make which batch.
        collate: Combines samples into a batch; None for torch's default.
        workers: Worker processes that load data; 0 for this one.
        pin_memory: Whether batches are put into memory that a GPU copies from quickly.
        speaks: Whether to warn about a small ``/dev/shm``.
    """
    options: dict[str, Any] = {
        "batch_sampler": batches,
        "collate_fn": collate,
        "num_workers": workers,
        "pin_memory": pin_memory,
        # A separate generator, so that the loader does not use the global one.
        "generator": torch.Generator(),
        "worker_init_fn": calm_worker,
    }
    if workers and SHARED_MEMORY.is_dir():
        needed = _needed(data, batches, collate, workers)
        free = shutil.disk_usage(SHARED_MEMORY).free
        if free < _LOADERS * (8 + 3 * workers) * _PAGE:
            if speaks:
                _logger.warning(
                    "%s has %.2f MB free, too little for workers: batches are loaded by the "
                    "training itself, which is slower. Start docker with --shm-size=8g or "
                    "--ipc=host.",
                    SHARED_MEMORY,
                    free / 1e6,
                )
            return DataLoader(data, **{**options, "num_workers": 0})
        if needed > free:
            if speaks:
                _logger.warning(
                    "%s has %.1f MB free, batches of %d workers take %.1f MB: they go "
                    "through pipes, which is slower. Start docker with --shm-size=8g or "
                    "--ipc=host.",
                    SHARED_MEMORY,
                    free / 1e6,
                    workers,
                    needed / 1e6,
                )
            return PipedLoader(data, **options)
    return DataLoader(data, **options)


class PipedLoader(DataLoader[Any]):
    """A loader whose workers send samples as bytes through pipes instead of shared memory.

    Batches are collated in this process, because torch's collation in a worker puts the batch into
    shared memory.

    Args:
        dataset: The samples.
        collate_fn: Combines samples into a batch; None for torch's default.
        options: Options of :class:`torch.utils.data.DataLoader`; batches are not pinned.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        collate_fn: Callable[[Any], Any] | None = None,
        **options: Any,  # noqa: ANN401  # passed on
    ) -> None:
        self._collate = collate_fn or default_collate
        options["pin_memory"] = False
        super().__init__(dataset, collate_fn=_to_bytes, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # only next() is used
        pieces = super().__iter__()
        return (self._collate(pickle.loads(piece)) for piece in pieces)  # noqa: S301 - our own


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:  # noqa: ANN401  # as the base class has it
        if isinstance(value, Tensor):
            # By default, pickling a view includes all of its memory.
            return value.clone().__reduce_ex__(pickle.HIGHEST_PROTOCOL)  # type: ignore[no-untyped-call]
        return NotImplemented


def _to_bytes(samples: object) -> bytes:
    """Pickle samples with their values, since the queue would pickle references to ``/dev/shm``.

    Example:
        >>> many = torch.zeros(10_000)
        >>> len(_to_bytes([many[:2]])) < 1_000
        True
    """
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(samples)
    return buffer.getvalue()


def _needed(
    data: Dataset[Any],
    batches: Iterable[list[int]],
    collate: Callable[[Any], Any] | None,
    workers: int,
) -> int:
    """Return the bytes of all batches that are prefetched at a time on this machine."""
    first = next(iter(batches), None)
    if first is None:
        return 0
    sample = DataLoader(
        data,
        batch_sampler=[first[:1]],
        collate_fn=collate,
        generator=torch.Generator(),
    )
    size = sum(map(_bytes, islice(sample, 1))) * len(first)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    return size * (_PREFETCH * workers + 1) * processes


def _bytes(batch: object) -> int:
    """Return the size of the tensors in a batch.

    Example:
        >>> _bytes({"image": torch.zeros(2, 3), "more": [torch.zeros(4)], "subject": ["a"]})
        40
    """
    if isinstance(batch, Tensor):
        return batch.numel() * batch.element_size()
    if isinstance(batch, Mapping):
        return sum(map(_bytes, batch.values()))
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return sum(map(_bytes, batch))
    return 0
