"""Stochastic weight averaging: the mean of the weights at the ends of the last epochs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, update_bn

from famseg.engine._experiment import Experiment
from famseg.engine._loader import training_loader
from famseg.engine._processes import Processes
from famseg.engine._step import TrainStep
from famseg.flatness import call_model


class EpochAverage:
    r"""A copy of another network until averaging begins, and the running mean of it afterwards.

    .. math:: \bar w \leftarrow \frac{n \bar w + w}{n + 1}

    at the end of every ``every``-th epoch (SWA: Izmailov et al. 2018, algorithm 1). Its buffers are
    those of the original network. The statistics of batch normalization are not valid for averaged
    weights and must be recomputed after each update, see :func:`renew_statistics`.

    Args:
        model: The network that is trained.
        first: The first epoch, starting at 1, whose final weights are part of the mean.
        every: Interval in epochs between the parts of the mean.

    Attributes:
        network: The mean, with the number of its parts, which is 0 until averaging begins.
    """

    def __init__(self, model: nn.Module, *, first: int, every: int = 1) -> None:
        self.first = first
        self.every = every
        self.network = AveragedModel(model)

    def follow(self, epoch: int, model: nn.Module) -> bool:
        """Update the mean at the end of an epoch (from 1); return whether a part was added."""
        if epoch < self.first:
            self.network.update_parameters(model)
            self.network.n_averaged.zero_()  # the next update is again a copy
            return False
        if (epoch - self.first) % self.every:
            return False
        self.network.update_parameters(model)
        return True


def renew_statistics(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], *, inputs: str, processes: Processes
) -> None:
    """Recompute the statistics of batch normalization: their mean over batches.

    It costs a forward pass over the batches in training mode, or nothing without batch
    normalization. Every process must call.

    Args:
        model: The network.
        batches: The batches of this rank, which may be empty.
        inputs: Key of the network's input in a batch.
        processes: The ranks of the run, whose batches have equal weight.
    """
    norms = [
        each
        for each in model.modules()
        if isinstance(each, _BatchNorm) and each.running_mean is not None
    ]
    if not norms:
        return
    update_bn(batches, _OfBatch(model, inputs).train(model.training))
    if processes.world > 1:
        for norm in norms:
            _share(norm, processes)


def _share(norm: _BatchNorm, processes: Processes) -> None:
    """Replace the statistics of one layer by the means over the batches of all ranks."""
    seen = norm.num_batches_tracked
    buffers = [each for each in (norm.running_mean, norm.running_var) if each is not None]
    if seen is None or not buffers:
        return
    weighted = torch.cat([seen.double().view(1), *(seen * each.double() for each in buffers)])
    batches, *sums = processes.sum(weighted.tolist())
    means = torch.tensor(sums, dtype=torch.float64) / batches
    seen.fill_(int(batches))
    for buffer, mean in zip(buffers, means.chunk(len(buffers)), strict=True):
        buffer.copy_(mean)


def whole_batches(
    experiment: Experiment, step: TrainStep, epoch: int, *, workers: int
) -> Iterator[Mapping[str, Any]]:
    """Yield this rank's share of an epoch's batches, augmented as in training.

    Batches are whole, since statistics of parts of a batch would depend on the number of ranks.

    Args:
        experiment: The task.
        step: The training step.
        epoch: The epoch, starting at 0.
        workers: Worker processes that load data.
    """
    rank, world = step.processes.rank, step.processes.world
    loader = training_loader(
        experiment,
        step.batches.dealt(epoch),
        workers=workers,
        pin_memory=step.device.type == "cuda",
    )
    for number, batch in zip(count(rank, world), loader, strict=False):
        iteration = epoch * step.batches.per_epoch + number
        torch.manual_seed((step.seed << 32) + iteration)  # dropout, as in a step
        yield step.on_device(batch)


class _OfBatch(nn.Module):
    """A network that takes whole batches, since `update_bn` passes its items on unchanged."""

    def __init__(self, model: nn.Module, inputs: str) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the output of the network for the batch's input."""
        outputs: Tensor = call_model(self.model, batch[self.inputs])  # type: ignore[assignment]
        return outputs
