"""Loaders of batches, also where ``/dev/shm`` is too small for its processes."""

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

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at
# Torch's default: batches that each worker has ready.
_PREFETCH = 2

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
        batches: Which samples make which batch.
        workers: Worker processes that load data; 0 for this one.
        pin_memory: Whether batches are put into memory that a GPU copies from quickly.
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

    Workers hand batches over in ``/dev/shm``, of which docker gives a container 64 MB; a
    process that finds it full ends the training, whatever torch's sharing strategy. Where it is
    too small for the batches under way they go through pipes, and a warning says so.

    Args:
        data: The samples.
        batches: Which samples make which batch.
        collate: Makes a batch of samples; None for torch's own way.
        workers: Worker processes that load data; 0 for this one.
        pin_memory: Whether batches are put into memory that a GPU copies from quickly.
        speaks: Whether a small ``/dev/shm`` is warned of.
    """
    options: dict[str, Any] = {
        "batch_sampler": batches,
        "collate_fn": collate,
        "num_workers": workers,
        "pin_memory": pin_memory,
        # A generator of its own: the loader then does not draw from the global one.
        "generator": torch.Generator(),
        "worker_init_fn": calm_worker,
    }
    if workers and SHARED_MEMORY.is_dir():
        needed = _needed(data, batches, collate, workers)
        free = shutil.disk_usage(SHARED_MEMORY).free
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
    """A loader whose processes send samples as bytes through pipes, not as shared memory.

    Batches are made of them in this process: torch's own collation puts a batch that it makes in a
    worker into shared memory.

    Args:
        dataset: The samples.
        collate_fn: Makes a batch of samples; None for torch's own way.
        options: As of :class:`torch.utils.data.DataLoader`; batches are not pinned.
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

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # what is asked of it is next()
        pieces = super().__iter__()
        return (self._collate(pickle.loads(piece)) for piece in pieces)  # noqa: S301 - our own


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:  # noqa: ANN401  # as the base class has it
        if isinstance(value, Tensor):
            # By itself a tensor takes along all of the memory that it is a view of.
            return value.clone().__reduce_ex__(pickle.HIGHEST_PROTOCOL)  # type: ignore[no-untyped-call]
        return NotImplemented


def _to_bytes(samples: object) -> bytes:
    """Pickle samples with their numbers; the queue would pickle names in ``/dev/shm``.

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
    """Return the bytes of all batches that are under way at a time on this machine."""
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
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun
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
