"""Checks that refuse unusable batch sizes before the first step, and suggest a usable one."""

from __future__ import annotations

from collections.abc import Callable

from famseg.engine._batches import Batches
from famseg.engine._experiment import Experiment
from famseg.engine._loader import training_loader
from famseg.engine._step import TrainStep
from famseg.engine._synced_norm import single_values
from famseg.messages import InputError


def check_shares(batch_size: int, world: int) -> None:
    """Refuse batches that have fewer samples than there are processes.

    Raises:
        InputError: If there are such batches.
    """
    if batch_size < world:
        raise InputError(
            f"training.batch_size: {batch_size} samples cannot be dealt out to "
            f"{world} processes. Give at least {world}."
        )


def check_norms(experiment: Experiment, step: TrainStep, *, world: int) -> None:
    """Refuse batches that give batch normalization a single value per channel.

    Args:
        experiment: The task, whose first batch is examined if a process gets a single sample.
        step: The training step.
        world: Number of processes that compute statistics of a batch separately.

    Raises:
        InputError: If a layer would have a single value, which has no variance.
    """
    samples, size = step.batches.samples, step.batches.batch_size
    if _least(samples, size, world) > 1:
        return
    number = next(iter(step.batches))[:1]
    loader = training_loader(experiment, [number], workers=0, pin_memory=False)
    single = single_values(step.objective, step.on_device(next(iter(loader))))
    if not single:
        return  # each sample has several positions, as inside a convolutional network
    nearest = _nearest(range(2, samples + 1), size, lambda each: _least(samples, each, world) > 1)
    advice = "Train on more samples."
    if nearest is not None:
        advice = f"Set training.batch_size={nearest}"
        advice += "." if world == 1 else ", or training.sync_batchnorm=true."
    among = "" if world == 1 else f" on {world} processes"
    raise InputError(
        f"training.batch_size: {samples} samples in batches of {size}{among} leave batch "
        f"normalization {single[0]!r} a single sample, which has no variance. {advice}"
    )


def check_single_samples(batches: Batches) -> None:
    """Refuse batches of which some processes get one sample and others several.

    On its first batch of one sample, the penalty inspects the network in an additional forward
    pass. If only one process ran this pass, it would wait forever for the statistics of the others.

    Raises:
        InputError: If there is such a batch.
    """
    samples, size, world = batches.samples, batches.batch_size, batches.world
    if not _uneven(samples, size, world):
        return
    sizes = range(world, samples + 1)
    nearest = _nearest(sizes, size, lambda each: not _uneven(samples, each, world))
    raise InputError(
        f"training.batch_size: {samples} samples in batches of {size} leave some of {world} "
        "processes a single sample of a batch and others two, for which synchronized batch "
        "normalization and a flatness penalty do not work together. Set "
        f"training.batch_size={size if nearest is None else nearest}, or "
        "training.sync_batchnorm=false."
    )


def _nearest(sizes: range, size: int, fits: Callable[[int], bool]) -> int | None:
    """Return the usable batch size closest to the given one; the smaller one in case of a tie."""
    return min(filter(fits, sizes), key=lambda each: (abs(each - size), each), default=None)


def _least(samples: int, batch_size: int, world: int) -> int:
    """Return the smallest number of samples of a process in any batch; none counts as one."""
    return max(1, min(_sizes(samples, batch_size)) // world)


def _uneven(samples: int, batch_size: int, world: int) -> bool:
    """Return whether there is a batch with one sample for one process and two for another."""
    return any(world < size < 2 * world for size in _sizes(samples, batch_size))


def _sizes(samples: int, batch_size: int) -> tuple[int, int]:
    """Return the sizes of a whole batch and of the last one of an epoch."""
    return min(batch_size, samples), samples % batch_size or batch_size
