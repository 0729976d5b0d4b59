"""The state of a training that survives a kill, stored in a checkpoint."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from famseg.engine._assembly import Assembly
from famseg.engine._checkpoint import (
    LAST,
    PREVIOUS,
    DamagedCheckpointError,
    keep_epoch,
    keep_previous,
    load_checkpoint,
    save_checkpoint,
)
from famseg.engine._meter import Meter
from famseg.engine._processes import Processes
from famseg.engine._rank_zero import on_main
from famseg.engine._result import Best
from famseg.engine._trust import check_optimizer, check_scheduler
from famseg.messages import DAMAGED, InputError, visible

if TYPE_CHECKING:
    from famseg.engine._config import KeepConfig

_logger = logging.getLogger("famseg")


class TrainingState:
    """Weights, optimizer and history of a training, as stored in a checkpoint.

    Checkpoints are valid for any number of ranks: order, defects, dropout and probes are functions
    of seed and step and need no state, and sums over an epoch are stored as sums over all ranks.

    Args:
        assembly: The parts of the training step.
        processes: The ranks of the run.

    Attributes:
        best: The best validation so far.
        meter: The sums of the current epoch.
        history: The metrics of each epoch, as in a line of ``metrics.jsonl``.
    """

    def __init__(self, assembly: Assembly, processes: Processes) -> None:
        self.step = assembly.step
        self.objective = assembly.step.objective
        self.average = assembly.average
        self.processes = processes
        self.best = Best()
        self.meter = Meter()
        self.history: list[dict[str, float | None]] = []

    @property
    def model(self) -> nn.Module:
        """The resulting network: the average, if there is one."""
        return self.objective.model if self.average is None else self.average.module

    def compare(self, epoch: int, value: float, *, min_delta: float) -> bool:
        """Record a validation's key metric; return whether it is the best so far."""
        if value > self.best.value + min_delta or self.best.epoch == 0:
            self.best = Best(epoch=epoch, value=value)
            return True
        self.best.waited += 1
        return False

    def note(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record an epoch for the checkpoint, from which the table is completed after a kill."""
        row: dict[str, float | None] = {"epoch": epoch, "time": round(time.time(), 3)}
        values = {name: float(value) for name, value in metrics.items()}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.history.append(row)

    def as_dict(self, iteration: int) -> dict[str, Any]:
        """Return the state after a number of forward passes; every rank must call."""
        sums = self.meter.state(self.processes)
        learned = self.processes.gather(self.objective.learned())
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "scheduler": self.step.scheduler.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "best": asdict(self.best),
            "iteration": iteration,
            "epoch": iteration // self.step.batches.per_epoch,
        }
        if self.step.sharpness is not None:
            state["sharpness"] = self.step.sharpness.state_dict()
        if self.average is not None:
            state["trained"] = self.objective.model.state_dict()
            state["averaged"] = int(self.average.n_averaged)
        return state | {"meter": sums, "objective": learned, "history": self.history}

    def load(self, path: Path) -> None:
        """Restore the state of a checkpoint.

        Raises:
            InputError: If it cannot be read, belongs to another network, or has more epochs than
                configured.
        """
        state, step = load_checkpoint(path), self.step
        try:
            check_optimizer(step.optimizer, state["optimizer"])
            check_scheduler(step.scheduler, state["scheduler"])
            self.objective.model.load_state_dict(state.get("trained", state["model"]))
            if self.average is not None:
                self.average.module.load_state_dict(state["model"])
                self.average.n_averaged.fill_(state["averaged"])
            step.optimizer.load_state_dict(state["optimizer"])
            step.scheduler.load_state_dict(state["scheduler"])
            step.scaler.load_state_dict(state["scaler"])
            if step.sharpness is not None:
                step.sharpness.load_state_dict(state.get("sharpness", {}))
            self.objective.recall(_own(state.get("objective", []), self.processes))
            self.best = Best(**state["best"])
            self.meter.load_state(state["meter"], self.processes)
            step.batches.start = state["iteration"]
            self.history = [dict(row) for row in state.get("history", [])]
        except (RuntimeError, *DAMAGED) as error:
            reason = visible(str(error).partition("\n")[0])[:200] or type(error).__name__
            raise InputError(f"{path}: belongs to another network ({reason}).") from error
        epochs, per_epoch = step.batches.epochs, step.batches.per_epoch
        if step.batches.start > epochs * per_epoch:
            raise InputError(
                f"{path}: was trained for {step.batches.start} steps, more than the "
                f"{epochs * per_epoch} of training.epochs={epochs}. Set at least as many epochs, "
                "or leave out --resume for a new run."
            )


class CheckpointFolder:
    """The folder ``checkpoints`` of a run, for writing and resuming.

    Args:
        path: The folder.
        keep: Which checkpoints of epochs are kept.
    """

    def __init__(self, path: Path, keep: KeepConfig) -> None:
        self.path = path
        self.keep = keep
        self._last_is_whole = True

    def newest(self, processes: Processes) -> Path | None:
        """Return the newest intact checkpoint, chosen by rank 0, or None.

        Raises:
            InputError: If there are checkpoints and none can be used.
        """
        found = on_main(processes, self._newest_whole)
        self._last_is_whole = found is None or found.name == LAST
        return found

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write ``last.pt``; an intact existing one becomes ``previous.pt``."""
        if name == LAST and self._last_is_whole:
            keep_previous(self.path / LAST)
        save_checkpoint(self.path / name, state)
        self._last_is_whole = self._last_is_whole or name == LAST

    def keep_epoch(self, epoch: int) -> None:
        """Keep ``last.pt`` as the checkpoint of an epoch if configured, and remove expired ones."""
        keep_epoch(self.path / LAST, epoch, last=self.keep.last, every=self.keep.every)

    def _newest_whole(self) -> Path | None:
        last, previous = (self.path / name for name in (LAST, PREVIOUS))
        if not last.exists():
            return previous if previous.exists() else None
        if not last.is_file():  # it could not be replaced at the end of the epoch
            raise InputError(f"{last}: is not a file. Remove it to resume from {PREVIOUS}.")
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
            _logger.warning("%s The training resumes from there, step %d.", error, iteration)
            return previous
        return last


def _own(learned: Sequence[Mapping[str, Any]], processes: Processes) -> Mapping[str, Any]:
    """Return the objective's state of this rank; if their number differs, the most cautious one.

    Each rank applies the penalty as often as its strength on the rank's own samples requires.
    """
    if len(learned) == processes.world:
        return learned[processes.rank]
    return max(learned, key=lambda one: one.get("pace", (0, 0)), default={})
