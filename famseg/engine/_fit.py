"""The training of an experiment: epochs, validations and checkpoints, for every pipeline."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn
from torch.optim.swa_utils import AveragedModel

from famseg.engine._assembly import assemble
from famseg.engine._checkpoint import BEST, LAST
from famseg.engine._epoch_average import EpochAverage, renew_statistics, whole_batches
from famseg.engine._experiment import Experiment
from famseg.engine._loader import training_loader
from famseg.engine._meter import Meter
from famseg.engine._observer import Observer
from famseg.engine._processes import Processes, lost_named
from famseg.engine._result import Best, FitResult
from famseg.engine._signals import SIGNALS, Interrupted, Paused, StopRequest
from famseg.engine._training_state import CheckpointFolder, TrainingState
from famseg.engine._validation import Validator

if TYPE_CHECKING:
    from famseg.engine._config import TrainingConfig
    from famseg.engine._methods_config import NSOConfig, SharpnessConfig


class Fit:
    """One training: MONAI's trainer around our step, with what must survive a kill.

    ``checkpoints/last.pt`` is written after every epoch and on a signal, ``checkpoints/best.pt``
    when the validation's key metric rises; ``checkpoints/previous.pt`` is the ``last.pt`` before,
    in case the disk damages that. A run resumed from ``last.pt`` reaches the same weights, to the
    last bit on a CPU, as one that was never stopped: order, defects, dropout and probes are
    functions of seed and step, and the rest is in the checkpoint. Checkpoints fit any number of
    processes.

    Args:
        experiment: The task.
        training: The section ``training`` of the configuration.
        folder: The run folder.
        processes: The ranks of the run.
        device: Where to compute, whatever ``training.device`` says.
        seed: Seed of order, dropout and the like.
        sam: Sharpness-aware minimization or one of its variants, or None.
        nso: Noise stability optimization, or None.

    Attributes:
        state: Weights, best epoch and history: what checkpoints hold.
        before_save: Called in the main process before it writes a checkpoint; may raise.

    Raises:
        InputError: If the batch is smaller than the number of processes or leaves batch
            normalization a single value, or there is no part that can be compiled.
    """

    def __init__(
        self,
        experiment: Experiment,
        training: TrainingConfig,
        *,
        folder: Path,
        processes: Processes,
        device: torch.device,
        seed: int,
        sam: SharpnessConfig | None = None,
        nso: NSOConfig | None = None,
    ) -> None:
        self.experiment = experiment
        self.training = training
        self.processes = processes
        self.device = device
        self.assembly = assemble(
            experiment,
            training,
            processes=processes,
            device=device,
            seed=seed,
            sam=sam,
            nso=nso,
        )
        self.step = self.assembly.step
        self.batches = self.step.batches
        self.state = TrainingState(self.assembly, processes)
        self.checkpoints = CheckpointFolder(folder / "checkpoints", training.keep)
        self.before_save: Callable[[], None] = lambda: None
        self.observers: Sequence[Observer] = ()
        self.validate = Validator(
            experiment,
            self.model,
            processes=processes,
            device=device,
            batch_size=training.batch_size,
            memory_format=self.step.memory_format,
            workers=training.workers,
        )
        self._plain_seconds: float | None = None
        self._epoch_began = 0.0
        self._until = training.epochs

    @property
    def average(self) -> AveragedModel | None:
        """The average of the weights in use, over steps or epochs."""
        return self.assembly.average

    @property
    def model(self) -> nn.Module:
        """The resulting network: the average, if there is one."""
        return self.state.model

    def restore(self) -> int:
        """Load ``last.pt`` if there is one; return the epochs it has completed.

        If it is damaged, ``previous.pt`` takes its place, with a warning. Every rank must call.

        Raises:
            InputError: If the checkpoint cannot be read or belongs to another network.
        """
        path = self.checkpoints.newest(self.processes)
        if path is None:
            return 0
        self.state.load(path)
        return self.batches.start // self.batches.per_epoch

    def run(
        self,
        *,
        observers: Sequence[Observer] = (),
        stop: StopRequest,
        until: int | None = None,
    ) -> FitResult:
        """Train from where the checkpoint left off to the end.

        Args:
            observers: Who sees the progress, in the main process.
            stop: Whether a signal asked to end.
            until: The epoch after which the training pauses, with the learning rates of the whole
                training; None to train to the end.

        Raises:
            NonFiniteError: If a total or gradient is not finite.
            Interrupted: If a signal ended the training; the state was saved.
            Paused: If the training paused after the epoch ``until``; the state was saved.
        """
        began = time.perf_counter()
        epochs, per_epoch = self.training.epochs, self.batches.per_epoch
        self._until = epochs if until is None else until
        self.observers = observers if self.processes.main else ()
        self.step.asked = stop.flags
        trainer = self._trainer(stop)
        for observer in self.observers:
            observer.started(epochs=epochs, steps=epochs * per_epoch, step=self.batches.start)
        if self.batches.start < epochs * per_epoch and not self._stops_early():
            self._pause(self.batches.start // per_epoch)
            self._plain_seconds = self._time_plain_step(trainer)
            try:
                with stop.deferred(), _quiet(trainer), lost_named():
                    trainer.run()
            finally:
                self.step.unwrap()
        return FitResult(
            epochs=trainer.state.iteration // per_epoch,
            best=self.state.best,
            stopped_early=self._stops_early(),
            seconds=time.perf_counter() - began,
        )

    def _time_plain_step(self, trainer: SupervisedTrainer) -> float | None:
        """Time a step without penalty if perhaps no step of the training is one."""
        objective = self.step.objective
        other = self.step.sharpness is not None or self.step.noise is not None
        if objective.weight == 0 or objective.period > 1 or other:
            return None
        return self.step.plain_seconds(next(iter(trainer.data_loader)))

    def _trainer(self, stop: StopRequest) -> SupervisedTrainer:
        loader = training_loader(
            self.experiment,
            self.batches,
            workers=self.training.workers,
            pin_memory=self.device.type == "cuda",
        )
        extent = {"epoch_length": self.batches.per_epoch, "max_epochs": self.training.epochs}
        trainer = SupervisedTrainer(
            device=self.device,
            train_data_loader=loader,
            # MONAI requires both; the step runs the objective itself, which holds the network.
            network=self.step.objective,
            optimizer=self.step.optimizer,
            loss_function=self.step.objective,
            iteration_update=self.step,
            decollate=False,
            **extent,
        )
        trainer.load_state_dict({"iteration": self.batches.start, **extent})
        trainer.add_event_handler(Events.EPOCH_STARTED, self._before_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._after_step, stop)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch, stop)
        return trainer

    def _before_epoch(self, engine: Engine) -> None:
        self._epoch_began = time.perf_counter()

    def _after_step(self, engine: Engine, stop: StopRequest) -> None:
        output, iteration = engine.state.output, engine.state.iteration
        self.state.meter.add(output)
        penalty = None if math.isnan(output["penalty"]) else output["penalty"]
        for observer in self.observers:
            observer.stepped(iteration, loss=output["loss"], penalty=penalty)
        # Not between the forward passes of one optimizer step, since gradients are not saved. After
        # the last step of an epoch, validation and a checkpoint come first.
        if iteration - 1 == self.step.window(iteration - 1)[1]:
            if self.assembly.moving is not None:
                self.assembly.moving.update_parameters(self.experiment.objective.model)
            if iteration % self.batches.per_epoch:
                # Ranks agree on signals within the step, together with their other exchanges, so a
                # later signal ends the training after the next step.
                asked = self.step.agreed if self.processes.world > 1 else stop.flags()
                self._stop_if_asked(iteration, asked)

    def _stop_if_asked(self, iteration: int, asked: Sequence[float]) -> None:
        """Save and stop if there was a signal; ``asked`` counts the ranks that received each."""
        if any(asked):
            self._save(LAST, iteration)
            raise Interrupted([number for number, n in zip(SIGNALS, asked, strict=True) if n][-1])

    def _after_epoch(self, engine: Engine, stop: StopRequest) -> None:
        """Average, measure, save and report an epoch, in an order that a kill cannot spoil."""
        epoch = engine.state.epoch
        if self.assembly.swa is not None:
            self._average_epoch(self.assembly.swa, epoch)
        metrics, improved = self._measure_epoch(engine)
        self.state.note(epoch, metrics)
        self._draw(epoch)
        # In this order: after a kill between the two, the epoch is rerun with the same best.pt. In
        # the other order, last.pt could refer to a best epoch that was never saved.
        if improved:
            self._save(BEST, engine.state.iteration)
        self._save(LAST, engine.state.iteration)
        if self.processes.main:
            self.checkpoints.keep_epoch(epoch)
        for observer in self.observers:
            observer.epoch(epoch, metrics)
        self._stop_if_asked(engine.state.iteration, self.processes.sum(stop.flags()))
        if self._stops_early():
            engine.terminate()
        else:
            self._pause(epoch)

    def _measure_epoch(self, engine: Engine) -> tuple[dict[str, float], bool]:
        """Return the metrics of an epoch, and whether it is the best so far."""
        epoch = engine.state.epoch
        metrics = self.state.meter.metrics(self.processes)
        metrics["train/epoch_seconds"] = time.perf_counter() - self._epoch_began
        if self._plain_seconds is not None:  # means of real steps are better, where there are any
            metrics.setdefault("train/seconds_plain_step", self._plain_seconds)
        metrics["train/learning_rate"] = engine.state.output["learning_rate"]
        self.state.meter = Meter()
        # Without synchronized statistics each process has its own; those of the first are saved.
        self.processes.copy_from_main(self.model.buffers())
        metrics |= self.experiment.monitor(self.model)
        improved = False
        if epoch % self.training.validate_every == 0 or epoch == self.training.epochs:
            metrics |= self.validate()
            early = self.training.early_stopping
            improved = self.state.compare(
                epoch,
                metrics[f"val/{self.experiment.key_metric}"],
                min_delta=early.min_delta if early else 0.0,
            )
        return metrics, improved

    def _pause(self, epoch: int) -> None:
        """Stop an unfinished training that has reached the epoch at which it pauses."""
        if self._until <= epoch < self.training.epochs:
            raise Paused(epoch, self.training.epochs)

    def _draw(self, epoch: int) -> None:
        """Draw the image before the checkpoint, since a resumed run would not repeat it."""
        due = epoch % self.training.picture_every == 0 or epoch == self.training.epochs
        if not (self.observers and due):
            return
        drawn = self.experiment.image(self.model)
        if drawn is not None:
            for observer in self.observers:
                observer.image(epoch, drawn)

    def _average_epoch(self, swa: EpochAverage, epoch: int) -> None:
        objective = self.experiment.objective
        if swa.follow(epoch, objective.model):
            renew_statistics(
                swa.network.module,
                whole_batches(self.experiment, self.step, epoch - 1, workers=self.training.workers),
                inputs=objective.inputs,
                processes=self.processes,
            )
        if epoch == swa.first:
            self.state.best = Best()  # only averaged networks are candidates for the best epoch

    def _stops_early(self) -> bool:
        early = self.training.early_stopping
        return early is not None and self.state.best.waited >= early.patience

    def _save(self, name: str, iteration: int) -> None:
        """Write a checkpoint; every rank must call."""
        state = self.state.as_dict(iteration)
        if self.processes.main:
            self.before_save()
            self.checkpoints.save(name, state)


@contextmanager
def _quiet(engine: Engine) -> Iterator[None]:
    """Silence the engine's own log, since the caller reports every exception."""
    level = engine.logger.level
    engine.logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        engine.logger.setLevel(level)
