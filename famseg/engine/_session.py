"""One run from configuration to evaluated result, including resuming it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from famseg.engine._checkpoint import load_checkpoint
from famseg.engine._claim import Claim, claimed
from famseg.engine._config import RunConfig
from famseg.engine._device import say_device
from famseg.engine._evaluation import evaluate_run, is_evaluated
from famseg.engine._experiment import Experiment
from famseg.engine._initial_weights import (
    Origin,
    find_weights,
    load_again,
    load_origin,
    note_origin,
)
from famseg.engine._memory import keep_freed_memory
from famseg.engine._network import weights_hash
from famseg.engine._observer import Observer
from famseg.engine._precision import exact_float32
from famseg.engine._processes import Processes
from famseg.engine._rank_zero import on_main
from famseg.engine._recorder import Recorder, recorder_of
from famseg.engine._report_page import WritePage, page_of
from famseg.engine._result import FitResult
from famseg.engine._signals import Interrupted, Paused, StopRequest
from famseg.files import read_json
from famseg.flatness import FlatnessError
from famseg.messages import DAMAGED, InputError
from famseg.runs import RunFolder, complete_record, status_kept
from famseg.tracking import Tracker, read_metrics

if TYPE_CHECKING:
    from famseg.engine._fit import Fit

Build = Callable[[Any, torch.device], Experiment]


_SUMMARY = "summary.json"


@dataclass(frozen=True)
class RunReport:
    """What a run left behind.

    Attributes:
        folder: The run folder.
        fit: How the training ended.
        history: One mapping per epoch, as in ``metrics.jsonl``.
        summary: The evaluation's summary, as in ``evaluation/summary.json``.
        table: The same for people.
        signs: Sentences about what went wrong.
        tracking_uri: Address of the MLflow store, or None.
        run_id: The MLflow run, or None.
        page: The page about the run, or None.
    """

    folder: RunFolder
    fit: FitResult
    history: Sequence[Mapping[str, float | None]]
    summary: Mapping[str, Any]
    table: str
    signs: Sequence[str]
    tracking_uri: str | None
    run_id: str | None
    page: Path | None = None


class Session:
    """Trains, evaluates, records and tracks one run.

    Args:
        build: Creates the experiment of a configuration on a device.
        config: The resolved configuration.
        processes: The ranks of the run.
        stop: Whether a signal asked to end.

    Raises:
        InputError: If configuration, data or output folder are faulty.
    """

    def __init__(
        self, build: Build, config: RunConfig, *, processes: Processes, stop: StopRequest
    ) -> None:
        self.config = config
        self.processes = processes
        self.stop = stop
        keep_freed_memory()
        if config.training.threads is not None:
            torch.set_num_threads(config.training.threads)
        self.device = config.training.choose_device(processes)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.deterministic = True
            exact_float32()
        self._build = build

    def run(
        self,
        *,
        resume: bool | Path = False,
        into: Path | None = None,
        until: int | None = None,
        weights: Path | None = None,
        observers: Sequence[Observer] = (),
        write_page: WritePage | None = None,
    ) -> RunReport:
        """Train and evaluate, as the only owner of the run folder.

        Args:
            resume: Resume the newest run of this name and configuration, or start one if there is
                none; or the run folder to resume. A finished run is only reported.
            into: The run folder itself, whatever the names in the configuration: a run is begun
                there if it is missing or empty, and resumed otherwise.
            until: The epoch after which the run pauses, to be resumed later; None for the end.
            weights: Begin a new run from these weights: a run folder, for its best epoch,
                ``RUN/last``, ``RUN/best`` or a checkpoint. Does not go with ``resume``.
            observers: Who sees the progress, in the main process.
            write_page: Writes a page about the finished run, in the main process; it is tracked
                with the run. What it raises is a warning.

        Raises:
            InputError: If the input is faulty, or another process owns the run folder.
            NonFiniteError: If the training diverges.
            Interrupted: If a signal ends it.
            Paused: If it paused after the epoch ``until``.
        """
        if resume and weights is not None:
            raise ValueError("weights are for a new run. Leave out resume.")
        # Before the data are prepared, which may take long, like the choice of the run folder.
        place = None if weights is None else on_main(self.processes, lambda: find_weights(weights))
        with claimed(self.config, self.processes, resume=resume, into=into) as claim:
            try:
                return self._run(claim, place, observers, until, write_page)
            except FlatnessError as error:
                raise InputError(f"penalty: {error}") from error
            except (Interrupted, Paused) as ended:
                if claim.folder.config.is_file():
                    ended.folder = claim.folder.path
                raise

    def _run(
        self,
        claim: Claim,
        weights: Path | None,
        observers: Sequence[Observer],
        until: int | None,
        write_page: WritePage | None,
    ) -> RunReport:
        folder = claim.folder
        say_device(self.device)  # before the data are prepared, which may take long
        torch.manual_seed(self.config.seed)  # the initial weights
        experiment = self._build(self.config, self.device)
        origin = self._origin(experiment, claim, weights)
        first = origin.sha256 if origin else weights_hash(experiment.objective.model)
        fit = self.config.training.build(
            experiment,
            folder=folder.path,
            processes=self.processes,
            device=self.device,
            seed=self.config.seed,
            sam=self.config.sam,
            nso=self.config.nso,
        )
        if claim.lease is not None:
            fit.before_save = claim.lease.check
        completed = fit.restore() if claim.begun else 0
        # A finished run is only reported; its results must be complete before anything changes.
        known = (
            self._known(experiment, folder) if completed >= self.config.training.epochs else None
        )
        recorder = self._recorder(claim, experiment, fit, completed, first, origin)
        with recorder.tracker:
            with self._status(folder):
                result = fit.run(observers=[recorder, *observers], stop=self.stop, until=until)
                if claim.lease is not None:
                    claim.lease.check()  # the last checkpoint may be old
                summary = known if known is not None else self._evaluate(experiment, folder)
                recorder.evaluated(experiment.test_metrics(summary))
            # The page states that the run is finished, so the status is set first.
            page = page_of(folder, write_page) if self.processes.main else None
            if page is not None:
                recorder.tracker.log_artifact(page)
        if self.processes.main:
            folder.note_sent(recorder.tracker.complete)
        history = read_metrics(folder.path)
        return RunReport(
            folder=folder,
            fit=result,
            history=history,
            summary=summary,
            table=experiment.table(summary),
            signs=experiment.signs(history, summary),
            tracking_uri=recorder.tracker.uri,
            run_id=recorder.tracker.run_id,
            page=page,
        )

    def _origin(self, experiment: Experiment, claim: Claim, weights: Path | None) -> Origin | None:
        """Load the initial weights of a run if they are from another run."""
        model = experiment.objective.model
        if weights is None:  # including a start that was killed before it had a configuration
            return load_again(model, claim.folder, self.processes)
        origin = load_origin(model, weights, self.processes)
        if self.processes.main:
            note_origin(claim.folder, origin)
        return origin

    def _recorder(
        self,
        claim: Claim,
        experiment: Experiment,
        fit: Fit,
        completed: int,
        weights: str,
        origin: Origin | None,
    ) -> Recorder:
        """Write the facts about the run before it starts; all ranks get an error."""
        recorders = [Recorder(claim.folder, None, Tracker.null())]

        def begin() -> None:
            if claim.begun:
                known = [row for row in fit.state.history if (row["epoch"] or 0) <= completed]
                rows = complete_record(claim.folder.path, known)
                fit.state.history = [row for row in rows if (row["epoch"] or 0) <= completed]
            recorders.append(
                recorder_of(
                    claim.folder,
                    experiment,
                    config=self.config,
                    device=self.device,
                    weights=weights,
                    epochs=completed if claim.begun else None,
                    started_from=origin.as_dict() if origin else None,
                )
            )

        on_main(self.processes, begin)
        return recorders[-1]

    def _status(self, folder: RunFolder) -> AbstractContextManager[None]:
        return status_kept(folder.path) if self.processes.main else nullcontext()

    def _known(self, experiment: Experiment, folder: RunFolder) -> Mapping[str, Any] | None:
        """Return the summary of a finished run; None if it must still be evaluated."""
        if not on_main(self.processes, lambda: is_evaluated(folder)):
            self._load_best(experiment, folder)
            return None
        found = self._summary(folder)
        try:  # from an earlier session, or from elsewhere
            experiment.test_metrics(found)
            experiment.table(found)
        except DAMAGED as error:
            path = folder.evaluation / _SUMMARY
            raise InputError(
                f"{path}: is not a summary of this pipeline. {_advice(folder)}"
            ) from error
        return found

    def _evaluate(self, experiment: Experiment, folder: RunFolder) -> Mapping[str, Any]:
        epoch = self._load_best(experiment, folder)
        model = experiment.objective.model
        evaluate_run(experiment, model, folder, processes=self.processes, epoch=epoch)
        return self._summary(folder)

    def _summary(self, folder: RunFolder) -> Mapping[str, Any]:
        path = folder.evaluation / _SUMMARY
        found: Mapping[str, Any] = on_main(self.processes, lambda: read_json(path, _advice(folder)))
        return found

    def _load_best(self, experiment: Experiment, folder: RunFolder) -> int:
        """Load the weights of the best epoch; return the epoch."""
        path = folder.checkpoint("best")
        state = load_checkpoint(path)
        try:
            experiment.objective.model.load_state_dict(state["model"])
        except (RuntimeError, *DAMAGED) as error:
            raise InputError(
                f"{path}: does not fit the network of {folder.config}. Were they copied from "
                "different runs?"
            ) from error
        return int(state["epoch"])


def _advice(folder: RunFolder) -> str:
    return f"Evaluate the run again: famseg evaluate {folder.path}"
