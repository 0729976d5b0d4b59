"""Assembly of the training step of an experiment according to its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from famseg.engine._batch_checks import check_norms, check_shares, check_single_samples
from famseg.engine._batches import Batches
from famseg.engine._epoch_average import EpochAverage
from famseg.engine._experiment import Experiment
from famseg.engine._network import compile_part, moving_average, order_channels_last
from famseg.engine._processes import Processes, group_for
from famseg.engine._step import TrainStep
from famseg.engine._synced_norm import batch_norms, synchronize
from famseg.objectives import Objective

if TYPE_CHECKING:
    from famseg.engine._config import TrainingConfig
    from famseg.engine._methods_config import NSOConfig, SharpnessConfig


@dataclass(frozen=True)
class Assembly:
    """The parts that run in every training step.

    Attributes:
        step: The step.
        swa: The mean of the weights at the ends of the last epochs, or None.
        moving: The moving average of the weights over steps, or None.
    """

    step: TrainStep
    swa: EpochAverage | None
    moving: AveragedModel | None

    @property
    def average(self) -> AveragedModel | None:
        """The average of the weights in use, over steps or epochs."""
        return self.moving if self.swa is None else self.swa.network


def assemble(
    experiment: Experiment,
    training: TrainingConfig,
    *,
    processes: Processes,
    device: torch.device,
    seed: int,
    sam: SharpnessConfig | None,
    nso: NSOConfig | None,
) -> Assembly:
    """Return the training step of an experiment; its network is moved to the device.

    Arguments are those of `Fit`.

    Raises:
        InputError: If the batches do not fit the processes or batch normalization, or the
            configuration requests compilation and there is no part that can be compiled.
    """
    check_shares(training.batch_size, processes.world)
    batches = _batches(experiment, training, processes, seed)
    objective = experiment.objective.to(device)
    memory_format = (
        order_channels_last(objective) if training.channels_last else torch.preserve_format
    )
    swa = training.swa
    epochs_mean = None if swa is None else swa.build(objective.model, epochs=training.epochs)
    moving = None if training.ema is None else moving_average(objective.model, training.ema)
    norms = batch_norms(objective.model)
    # The averages keep their layers: each process recomputes their statistics on whole batches.
    synced = bool(norms) and training.sync_batchnorm and processes.world > 1
    share = synchronize(objective, processes) if synced else None
    if training.compile:
        compile_part(experiment.compilable, objective.penalized)
    optimizer = experiment.optimizer(objective.parameters())
    step = TrainStep(
        objective if processes.world == 1 else _distributed(objective, device),
        training,
        optimizer=optimizer,
        scheduler=_scheduler(experiment, training, optimizer, batches),
        batches=batches,
        processes=processes,
        device=device,
        seed=seed,
        sharpness=None if sam is None else sam.build(objective.parameters()),
        noise=None if nso is None else nso.build(objective.parameters(), seed=seed),
        augment=experiment.augment,
        memory_format=memory_format,
        norm_share=share,
    )
    if norms:
        check_norms(experiment, step, world=1 if synced else processes.world)
    if synced and objective.penalized:
        check_single_samples(batches)
    return Assembly(step, epochs_mean, moving)


def _batches(
    experiment: Experiment, training: TrainingConfig, processes: Processes, seed: int
) -> Batches:
    return Batches(
        len(experiment.train),  # type: ignore[arg-type]  # map-style data sets have a length
        training.batch_size,
        epochs=training.epochs,
        seed=seed,
        rank=processes.rank,
        world=processes.world,
        lengths=experiment.lengths,
    )


def _distributed(objective: Objective, device: torch.device) -> DistributedDataParallel:
    return DistributedDataParallel(
        objective,
        device_ids=None if device.type == "cpu" else [device.index],
        process_group=group_for(device.type),
    )


def _scheduler(
    experiment: Experiment, training: TrainingConfig, optimizer: Optimizer, batches: Batches
) -> LambdaLR:
    steps_per_epoch = -(-batches.per_epoch // training.accumulate)
    schedule = experiment.schedule
    if training.swa is not None:
        base = float(optimizer.param_groups[0]["lr"])
        schedule = training.swa.schedule(schedule, epochs=training.epochs, base=base)
    # At half a step, so that neither the first step of a warm-up nor the last of a cosine is 0.
    return LambdaLR(optimizer, lambda step: schedule((step + 0.5) / steps_per_epoch))
