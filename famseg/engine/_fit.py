"""The training of an experiment: assembled once, for every pipeline."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from famseg.engine._batches import Batches
from famseg.engine._checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    DamagedCheckpointError,
    keep_epoch,
    keep_previous,
    load_checkpoint,
    save_checkpoint,
)
from famseg.engine._epoch_average import EpochAverage, renew_statistics, whole_batches
from famseg.engine._experiment import Experiment, Observer
from famseg.engine._loader import training_loader
from famseg.engine._main import on_main
from famseg.engine._meter import Meter
from famseg.engine._network import compile_part, moving_average, order_channels_last
from famseg.engine._processes import Processes, group_for, lost_named
from famseg.engine._result import Best, FitResult
from famseg.engine._signals import SIGNALS, Interrupted, Paused, StopRequest
from famseg.engine._step import Precision, TrainStep
from famseg.engine._synced_norm import batch_norms, single_values, synchronize
from famseg.engine._trust import check_optimizer, check_scheduler
from famseg.engine._validation import Validator
from famseg.messages import DAMAGED, InputError, visible

if TYPE_CHECKING:
    from famseg.engine._methods_config import NSOConfig, SharpnessConfig, SWAConfig

_logger = logging.getLogger("famseg")


class Fit:
    """One training: MONAI's trainer around our step, with what must survive a kill.

    ``checkpoints/last.pt`` is written after every epoch and on a signal, ``checkpoints/best.pt``
    when the validation's key metric rises; ``checkpoints/previous.pt`` is the ``last.pt`` before,
    in case a disk damages that. A run resumed from ``last.pt`` goes on to the same
    weights, to the last bit on a CPU, as one that was never stopped: order, defects, dropout and
    probes are functions of seed and step, and the rest is in the checkpoint. Checkpoints fit any
    number of processes.

    Args:
        experiment: The task.
        folder: The run folder.
        processes: The processes of the run.
        device: Where to compute.
        seed: Seed of order, dropout and the like.
        epochs: Passes over the training set.
        batch_size: Samples a forward pass, over all processes.
        accumulate: Forward passes an optimizer step.
        clip_norm: Largest norm of the gradient, or None.
        precision: Type of the autocast.
        sam: Sharpness-aware minimisation or one of its variants, or None.
        nso: Noise stability optimization, or None.
        ema: Decay a step of a moving average of weights and buffers, or None; the average is then
            what is validated, kept as ``model`` in checkpoints, pictured and evaluated.
        swa: Mean of the weights at the ends of the last epochs, or None; used like ``ema``, and the
            best epoch is then one of those that end with a mean.
        sync_batchnorm: Whether batch normalization takes its statistics over all processes.
        channels_last: Whether weights and pictures are kept with channels innermost.
        compiled: Whether the experiment's compilable part is compiled.
        validate_every: Epochs between validations; the last epoch is always validated.
        picture_every: Epochs between pictures.
        patience: Validations without a rise before the training ends, or None.
        min_delta: A rise of at most this counts as none.
        workers: Processes that load data.
        keep_last: Of how many of the last epochs checkpoints are kept; of one it is ``last.pt``.
        keep_every: Of each so many epochs the checkpoint is kept for good, or None.

    Attributes:
        history: What is known of each epoch, as a line of ``metrics.jsonl`` is; in checkpoints too.
        before_save: Called in the main process before it writes a checkpoint; may raise.

    Raises:
        InputError: If the batch is smaller than the number of processes, or leaves batch
            normalization a single value; or nothing can be compiled that shall be.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        folder: Path,
        processes: Processes,
        device: torch.device,
        seed: int,
        epochs: int,
        batch_size: int,
        accumulate: int = 1,
        clip_norm: float | None = None,
        precision: Precision = "fp32",
        sam: SharpnessConfig | None = None,
        nso: NSOConfig | None = None,
        ema: float | None = None,
        swa: SWAConfig | None = None,
        sync_batchnorm: bool = True,
        channels_last: bool = False,
        compiled: bool = False,
        validate_every: int = 1,
        picture_every: int = 10,
        patience: int | None = None,
        min_delta: float = 0.0,
        workers: int = 0,
        keep_last: int = 1,
        keep_every: int | None = None,
    ) -> None:
        if batch_size < processes.world:
            raise InputError(
                f"training.batch_size: {batch_size} samples cannot be dealt out to "
                f"{processes.world} processes. Give at least {processes.world}."
            )
        self.experiment = experiment
        self.checkpoints = folder / "checkpoints"
        self.processes = processes
        self.device = device
        self.epochs = epochs
        self.validate_every = validate_every
        self.picture_every = picture_every
        self.patience = patience
        self.min_delta = min_delta
        self.workers = workers
        self.keep_last = keep_last
        self.keep_every = keep_every
        self.history: list[dict[str, float | None]] = []
        self.before_save: Callable[[], None] = lambda: None
        self.best = Best()
        self.meter = Meter()
        self.observers: Sequence[Observer] = ()
        self._plain_seconds: float | None = None
        self._epoch_began = 0.0
        self._until = epochs
        self._last_is_whole = True
        self.batches = Batches(
            len(experiment.train),  # type: ignore[arg-type]  # a map-style set has a length
            batch_size,
            epochs=epochs,
            seed=seed,
            rank=processes.rank,
            world=processes.world,
            lengths=experiment.lengths,
        )
        objective = experiment.objective.to(device)
        memory_format = order_channels_last(objective) if channels_last else torch.preserve_format
        self.swa = None if swa is None else swa.build(objective.model, epochs=epochs)
        self._moving = None if ema is None else moving_average(objective.model, ema)
        norms = batch_norms(objective.model)
        # The averages stay as they are: each process renews their statistics on whole batches.
        synced = bool(norms) and sync_batchnorm and processes.world > 1
        share = synchronize(objective, processes) if synced else None
        if compiled:
            compile_part(experiment.compilable, objective.penalised)
        optimizer = experiment.optimizer(objective.parameters())
        self.step = TrainStep(
            objective
            if processes.world == 1
            else DistributedDataParallel(
                objective,
                device_ids=None if device.type == "cpu" else [device.index],
                process_group=group_for(device.type),
            ),
            optimizer=optimizer,
            scheduler=self._scheduler(optimizer, accumulate, swa),
            batches=self.batches,
            processes=processes,
            device=device,
            seed=seed,
            precision=precision,
            clip_norm=clip_norm,
            accumulate=accumulate,
            sharpness=None if sam is None else sam.build(objective.parameters()),
            noise=None if nso is None else nso.build(objective.parameters(), seed=seed),
            augment=experiment.augment,
            memory_format=memory_format,
            norm_share=share,
        )
        if norms:
            self._check_norms(1 if synced else processes.world)
        if synced and objective.penalised:
            self._check_single_samples()
        self.validate = Validator(
            experiment,
            self.model,
            processes=processes,
            device=device,
            batch_size=batch_size,
            memory_format=memory_format,
            workers=workers,
            pin_memory=device.type == "cuda",
        )

    @property
    def average(self) -> AveragedModel | None:
        """The average of the weights that is taken, over steps or epochs."""
        return self._moving if self.swa is None else self.swa.network

    @property
    def model(self) -> nn.Module:
        """The network that the training is for: the average where one is taken."""
        return self.experiment.objective.model if self.average is None else self.average.module

    def _scheduler(
        self, optimizer: torch.optim.Optimizer, accumulate: int, swa: SWAConfig | None
    ) -> LambdaLR:
        steps_per_epoch = -(-self.batches.per_epoch // accumulate)
        schedule = self.experiment.schedule
        if swa is not None:
            base = float(optimizer.param_groups[0]["lr"])
            schedule = swa.schedule(schedule, epochs=self.epochs, base=base)
        # Half a step in: neither the first step of a warm-up nor the last of a cosine is wasted.
        return LambdaLR(optimizer, lambda step: schedule((step + 0.5) / steps_per_epoch))

    def _check_norms(self, world: int) -> None:
        """Refuse batches that leave batch normalization one value of a channel.

        Args:
            world: Among how many processes the statistics of a batch are split.
        """
        samples, size = self.batches.samples, self.batches.batch_size
        if _least(samples, size, world) > 1:
            return
        number = next(iter(self.batches))[:1]
        loader = training_loader(self.experiment, [number], workers=0, pin_memory=False)
        single = single_values(self.step.objective, self.step.on_device(next(iter(loader))))
        if not single:
            return  # each sample has several places, as in the middle of a convolutional network
        fitting = [each for each in range(2, samples + 1) if _least(samples, each, world) > 1]
        advice = "Train on more samples."
        if fitting:
            nearest = min(fitting, key=lambda each: (abs(each - size), each))
            advice = f"Set training.batch_size={nearest}"
            advice += "." if world == 1 else ", or training.sync_batchnorm=true."
        among = "" if world == 1 else f" on {world} processes"
        raise InputError(
            f"training.batch_size: {samples} samples in batches of {size}{among} leave batch "
            f"normalization {single[0]!r} a single sample, which has no variance. {advice}"
        )

    def _check_single_samples(self) -> None:
        """Refuse batches of which some processes have one sample, and others several.

        The penalty looks at a network anew, by a pass of its own, on its first batch of one sample.
        Such a pass of one process alone would wait for the statistics of the others.
        """
        samples, size, world = self.batches.samples, self.batches.batch_size, self.processes.world
        if not _uneven(samples, size, world):
            return
        fitting = [each for each in range(world, samples + 1) if not _uneven(samples, each, world)]
        nearest = min(fitting, key=lambda each: (abs(each - size), each), default=size)
        raise InputError(
            f"training.batch_size: {samples} samples in batches of {size} leave some of {world} "
            "processes a single sample of a batch and others two, on which synchronized batch "
            "normalization and a flatness penalty cannot be trained together. Set "
            f"training.batch_size={nearest}, or training.sync_batchnorm=false."
        )

    def restore(self) -> int:
        """Load ``last.pt`` if there is one; return the epochs it has completed.

        Where it is damaged, and said to be, ``previous.pt`` takes its place. Every process must
        call.

        Raises:
            InputError: If the checkpoint cannot be read or belongs to another network.
        """
        path = self._checkpoint_to_resume()
        if path is None:
            return 0
        state = load_checkpoint(path)
        try:
            check_optimizer(self.step.optimizer, state["optimizer"])
            check_scheduler(self.step.scheduler, state["scheduler"])
            self.experiment.objective.model.load_state_dict(state.get("trained", state["model"]))
            if self.average is not None:
                self.average.module.load_state_dict(state["model"])
                self.average.n_averaged.fill_(state["averaged"])
            self.step.optimizer.load_state_dict(state["optimizer"])
            self.step.scheduler.load_state_dict(state["scheduler"])
            self.step.scaler.load_state_dict(state["scaler"])
            if self.step.sharpness is not None:
                self.step.sharpness.load_state_dict(state.get("sharpness", {}))
            self.experiment.objective.recall(_own(state.get("objective", []), self.processes))
            self.best = Best(**state["best"])
            self.meter.load_state(state["meter"], self.processes)
            self.batches.start = state["iteration"]
            self.history = [dict(row) for row in state.get("history", [])]
        except (RuntimeError, *DAMAGED) as error:
            reason = visible(str(error).partition("\n")[0])[:200] or type(error).__name__
            raise InputError(f"{path}: belongs to another network ({reason}).") from error
        if self.batches.start > self.epochs * self.batches.per_epoch:
            raise InputError(
                f"{path}: was trained for {self.batches.start} steps, more than the "
                f"{self.epochs * self.batches.per_epoch} of training.epochs={self.epochs}. Give as "
                "many epochs as it has, or leave out --resume for a new run."
            )
        return self.batches.start // self.batches.per_epoch

    def _checkpoint_to_resume(self) -> Path | None:
        """Return the newest checkpoint that is whole; rank 0 chooses."""
        found = on_main(self.processes, self._newest_whole)
        self._last_is_whole = found is None or found.name == LAST
        return found

    def _newest_whole(self) -> Path | None:
        last, previous = (self.checkpoints / name for name in (LAST, PREVIOUS))
        if not last.exists():
            return previous if previous.exists() else None
        if not last.is_file():  # a folder could not be replaced at the end of the epoch
            raise InputError(f"{last}: is not a file. Remove it to go on from {PREVIOUS}.")
        try:
            load_checkpoint(last)
        except DamagedCheckpointError as error:
            if not previous.exists():
                raise
            try:
                state = load_checkpoint(previous)
            except InputError:
                raise DamagedCheckpointError(
                    f"{last}: is damaged, and so is {PREVIOUS} beside it. Copy one of them from a "
                    "backup, or leave out --resume for a new run."
                ) from error
            iteration = int(state["iteration"])
            _logger.warning("%s Going on from there, step %d.", error, iteration)
            return previous
        return last

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
        self._until = self.epochs if until is None else until
        self.observers = observers if self.processes.main else ()
        self.step.asked = stop.flags
        trainer = self._trainer(stop)
        steps = self.epochs * self.batches.per_epoch
        for observer in self.observers:
            observer.started(epochs=self.epochs, steps=steps, step=self.batches.start)
        if self.batches.start < steps and not self._exhausted():
            self._pause(self.batches.start // self.batches.per_epoch)
            self._plain_seconds = self._time_plain_step(trainer)
            try:
                with stop.deferred(), _quiet(trainer), lost_named():
                    trainer.run()
            finally:
                self.step.unwrap()
        return FitResult(
            epochs=trainer.state.iteration // self.batches.per_epoch,
            best=self.best,
            stopped_early=self._exhausted(),
            seconds=time.perf_counter() - began,
        )

    def _time_plain_step(self, trainer: SupervisedTrainer) -> float | None:
        """Time a step without penalty where no step of the training is one."""
        objective = self.step.objective
        other = self.step.sharpness is not None or self.step.noise is not None
        if objective.weight == 0 or objective.period > 1 or other:
            return None
        return self.step.plain_seconds(next(iter(trainer.data_loader)))

    def _trainer(self, stop: StopRequest) -> SupervisedTrainer:
        loader = training_loader(
            self.experiment,
            self.batches,
            workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=self.epochs,
            train_data_loader=loader,
            epoch_length=self.batches.per_epoch,
            network=self.step.objective,
            optimizer=self.step.optimizer,
            loss_function=self.step.objective,
            iteration_update=self.step,
            decollate=False,
        )
        trainer.load_state_dict(
            {
                "iteration": self.batches.start,
                "epoch_length": self.batches.per_epoch,
                "max_epochs": self.epochs,
            }
        )
        trainer.add_event_handler(Events.EPOCH_STARTED, self._before_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._after_step, stop)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch, stop)
        return trainer

    def _before_epoch(self, engine: Engine) -> None:
        self._epoch_began = time.perf_counter()

    def _after_step(self, engine: Engine, stop: StopRequest) -> None:
        output, iteration = engine.state.output, engine.state.iteration
        self.meter.add(output)
        penalty = None if output["penalty"] != output["penalty"] else output["penalty"]
        for observer in self.observers:
            observer.stepped(iteration, loss=output["loss"], penalty=penalty)
        # Not between the forward passes of one optimizer step, whose gradients are not saved; the
        # last step of an epoch is followed by validation and a checkpoint first.
        if iteration - 1 == self.step.window(iteration - 1)[1]:
            if self._moving is not None:
                self._moving.update_parameters(self.experiment.objective.model)
            if not self._ends_epoch(iteration):
                self._stop_if_asked(iteration, self._asked(stop, self.step.agreed))

    def _ends_epoch(self, iteration: int) -> bool:
        return iteration % self.batches.per_epoch == 0

    def _asked(self, stop: StopRequest, agreed: Sequence[float]) -> Sequence[float]:
        """Return how many processes know of each signal, of which all must know the same.

        Where there are several they agreed on it within the step, with what else they exchange: a
        signal that comes afterwards ends the training after the next one.
        """
        return agreed if self.processes.world > 1 else stop.flags()

    def _stop_if_asked(self, iteration: int, asked: Sequence[float]) -> None:
        if any(asked):
            self._save(LAST, iteration, self.meter.state(self.processes))
            raise Interrupted([number for number, n in zip(SIGNALS, asked, strict=True) if n][-1])

    def _after_epoch(self, engine: Engine, stop: StopRequest) -> None:
        epoch = engine.state.epoch
        if self.swa is not None:
            self._average_epoch(self.swa, epoch)
        metrics = self.meter.metrics(self.processes)
        metrics["train/epoch_seconds"] = time.perf_counter() - self._epoch_began
        if self._plain_seconds is not None:
            metrics["train/seconds_plain_step"] = self._plain_seconds
        metrics["train/learning_rate"] = engine.state.output["learning_rate"]
        self.meter = Meter()
        # Without synchronized statistics each process has its own; those of the first are saved.
        self.processes.copy_from_main(self.model.buffers())
        if self.experiment.monitor is not None:
            metrics |= self.experiment.monitor(self.model)
        improved = False
        if epoch % self.validate_every == 0 or epoch == self.epochs:
            metrics |= self.validate()
            improved = self._compare(epoch, metrics[f"val/{self.experiment.key_metric}"])
        self._note(epoch, metrics)
        self._draw(epoch)
        # In this order: after a kill between the two the epoch is run again to the same best.pt,
        # whereas a last.pt alone would know of a best epoch that was never saved.
        if improved:
            self._save(BEST, engine.state.iteration)
        self._save(LAST, engine.state.iteration)
        if self.processes.main:
            keep_epoch(self.checkpoints / LAST, epoch, last=self.keep_last, every=self.keep_every)
        for observer in self.observers:
            observer.epoch(epoch, metrics)
        self._stop_if_asked(engine.state.iteration, self.processes.sum(stop.flags()))
        if self._exhausted():
            engine.terminate()
        else:
            self._pause(epoch)

    def _pause(self, epoch: int) -> None:
        """End an unfinished training that has come to the epoch at which it pauses."""
        if self._until <= epoch < self.epochs:
            raise Paused(epoch, self.epochs)

    def _note(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Note an epoch for its checkpoint, from which a record is completed after a kill."""
        row: dict[str, float | None] = {"epoch": epoch, "time": round(time.time(), 3)}
        values = {name: float(value) for name, value in metrics.items()}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.history.append(row)

    def _draw(self, epoch: int) -> None:
        """Draw the network before its checkpoint: after a kill nobody goes back for the picture."""
        picture, due = self.experiment.picture, epoch % self.picture_every == 0
        if self.observers and picture and (due or epoch == self.epochs):
            drawn = picture(self.model)
            for observer in self.observers:
                observer.picture(epoch, drawn)

    def _average_epoch(self, swa: EpochAverage, epoch: int) -> None:
        objective = self.experiment.objective
        if swa.follow(epoch, objective.model):
            renew_statistics(
                swa.network.module,
                whole_batches(self.experiment, self.step, epoch - 1, workers=self.workers),
                inputs=objective.inputs,
                processes=self.processes,
            )
        if epoch == swa.first:
            self.best = Best()  # what is chosen is a mean, however good the weights were before

    def _compare(self, epoch: int, value: float) -> bool:
        if value > self.best.value + self.min_delta or self.best.epoch == 0:
            self.best = Best(epoch=epoch, value=value)
            return True
        self.best.waited += 1
        return False

    def _exhausted(self) -> bool:
        return self.patience is not None and self.best.waited >= self.patience

    def _save(self, name: str, iteration: int, meter: Mapping[str, float] | None = None) -> None:
        """Write a checkpoint, with the sums over an epoch that is not at its end.

        Every process must call.
        """
        learned = self.processes.gather(self.experiment.objective.learned())
        if not self.processes.main:
            return
        self.before_save()
        if name == LAST and self._last_is_whole:
            keep_previous(self.checkpoints / LAST)
        sums = Meter().sums if meter is None else meter
        more = {"meter": dict(sums), "objective": learned, "history": self.history}
        save_checkpoint(self.checkpoints / name, self._state(iteration) | more)
        self._last_is_whole = self._last_is_whole or name == LAST

    def _state(self, iteration: int) -> dict[str, Any]:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "scheduler": self.step.scheduler.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "best": asdict(self.best),
            "iteration": iteration,
            "epoch": iteration // self.batches.per_epoch,
        }
        if self.step.sharpness is not None:
            state["sharpness"] = self.step.sharpness.state_dict()
        if self.average is not None:
            state["trained"] = self.experiment.objective.model.state_dict()
            state["averaged"] = int(self.average.n_averaged)
        return state


def _own(learned: Sequence[Mapping[str, Any]], processes: Processes) -> Mapping[str, Any]:
    """Return what a process has learned; of another number of them what the most careful has.

    Each process takes the penalty at a pace of its own, as strong as it is on its samples.
    """
    if len(learned) == processes.world:
        return learned[processes.rank]
    return max(learned, key=lambda one: one.get("pace", (0, 0)), default={})


def _least(samples: int, batch_size: int, world: int) -> int:
    """Return the fewest samples that a process has of any batch; one that has none runs one."""
    sizes = min(batch_size, samples), samples % batch_size or batch_size
    return max(1, min(sizes) // world)


def _uneven(samples: int, batch_size: int, world: int) -> bool:
    """Return whether of some batch a process has one sample and another one two."""
    sizes = min(batch_size, samples), samples % batch_size or batch_size
    return any(world < size < 2 * world for size in sizes)


@contextmanager
def _quiet(engine: Engine) -> Iterator[None]:
    """Silence the engine's own log: every exception is reported once, by whoever called."""
    level = engine.logger.level
    engine.logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        engine.logger.setLevel(level)
