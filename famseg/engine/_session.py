"""One run from configuration to evaluated result, and again after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from famseg.config import InputError, differences, read
from famseg.config._errors import DAMAGED
from famseg.config._json import read_json
from famseg.engine._checkpoint import load_checkpoint
from famseg.engine._config import RunConfig
from famseg.engine._evaluation import evaluate_run
from famseg.engine._experiment import Experiment, Observer
from famseg.engine._network import weights_hash
from famseg.engine._precision import exact_float32
from famseg.engine._processes import Processes
from famseg.engine._recorder import Recorder, recorder_of
from famseg.engine._result import FitResult
from famseg.engine._run import RunFolder, new_run_folder, newest_run_folder
from famseg.engine._signals import StopRequest
from famseg.engine._status import status_kept
from famseg.flatness import FlatnessError
from famseg.tracking import Tracker, read_metrics

Build = Callable[[Any, torch.device], Experiment]

# What may differ on resume: it changes where and how fast a run goes, not where it arrives.
_FREE_ON_RESUME = (
    "output",
    "tracking",
    "training.workers",
    "training.device",
    "training.threads",
    "training.picture_every",
)


@dataclass(frozen=True)
class RunReport:
    """What a run left behind.

    Attributes:
        folder: The run folder.
        fit: How the training ended.
        history: One mapping an epoch, as in ``metrics.jsonl``.
        summary: The evaluation's summary, as in ``evaluation/summary.json``.
        table: The same for people.
        signs: Sentences about what went wrong.
        tracking_uri: Address of the MLflow store, or None.
        run_id: The MLflow run, or None.
    """

    folder: RunFolder
    fit: FitResult
    history: Sequence[Mapping[str, float | None]]
    summary: Mapping[str, Any]
    table: str
    signs: Sequence[str]
    tracking_uri: str | None
    run_id: str | None


class Session:
    """Trains, evaluates, records and tracks one run.

    Args:
        build: Makes the experiment of a configuration on a device.
        config: The resolved configuration.
        processes: The processes of the run.
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
        if config.training.threads is not None:
            torch.set_num_threads(config.training.threads)
        self.device = config.training.choose_device(processes)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.deterministic = True
            exact_float32()
        self._build = build

    def run(self, *, resume: bool, observers: Sequence[Observer] = ()) -> RunReport:
        """Train and evaluate.

        Args:
            resume: Go on with the newest run of this name and configuration; start one if there
                is none. A finished run is only reported.
            observers: Who sees the progress, in the main process.

        Raises:
            InputError: If the input is faulty.
            NonFiniteError: If the training diverges.
            Interrupted: If a signal ends it.
        """
        old = self._on_main(self._run_to_resume) if resume else None
        # Before the data are prepared, which can take long: a faulty output folder is said at once.
        folder: RunFolder = old or self._on_main(self._new_folder)
        try:
            experiment = self._experiment(folder)
            weights = weights_hash(experiment.objective.model)
            fit = self.config.training.build(
                experiment,
                folder=folder.path,
                processes=self.processes,
                device=self.device,
                seed=self.config.seed,
                sam=self.config.sam,
                nso=self.config.nso,
            )
            completed = fit.restore() if old else 0
            recorder = (
                recorder_of(
                    folder,
                    experiment,
                    config=self.config,
                    device=self.device,
                    weights=weights,
                    epochs=completed if old else None,
                )
                if self.processes.main
                else Recorder(folder, None, Tracker.null())
            )
            with self._status(folder), recorder.tracker:
                result = fit.run(observers=[recorder, *observers], stop=self.stop)
                trained = result.epochs > completed
                summary = self._evaluate(experiment, folder, again=trained)
                recorder.evaluated(experiment.test_metrics(summary))
        except FlatnessError as error:
            raise InputError(f"penalty: {error}") from error
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
        )

    def _experiment(self, folder: RunFolder) -> Experiment:
        torch.manual_seed(self.config.seed)  # the initial weights
        try:
            return self._build(self.config, self.device)
        except BaseException:
            if self.processes.main:
                with suppress(OSError):  # a folder with files in it is an older run's
                    folder.path.rmdir()
            raise

    @property
    def _name(self) -> str:
        config = self.config
        return f"{config.name}-lambda{config.penalty.weight:g}{config.method}-seed{config.seed}"

    def _on_main(self, choose: Callable[[], object]) -> Any:  # noqa: ANN401
        """Let rank 0 choose; every process gets the choice, or the fault."""
        chosen: object = None
        if self.processes.main:
            try:
                chosen = choose()
            except InputError as error:
                chosen = error
        chosen = self.processes.from_main(chosen)
        if isinstance(chosen, InputError):
            raise chosen
        return chosen

    def _new_folder(self) -> RunFolder:
        return new_run_folder(Path(self.config.output), self._name)

    def _run_to_resume(self) -> RunFolder | None:
        folder = newest_run_folder(Path(self.config.output), self._name)
        if folder is None:
            return None
        old = read(str(folder.config)).validate(type(self.config))
        changed = [
            line
            for line in differences(old, self.config)
            if not line.startswith(_FREE_ON_RESUME) and not self._longer(line)
        ]
        if changed:
            raise InputError(
                *(f"{folder.config}: {line}" for line in changed),
                f"{folder.path}: a run goes on with the configuration it began with. Leave out "
                "--resume for a new run.",
            )
        return folder

    def _longer(self, difference: str) -> bool:
        # The cosine's course depends on the number of epochs, and so does the beginning of an
        # average over epochs; a constant rate does not.
        config = self.config
        constant = config.schedule.kind == "constant" and config.training.swa is None
        return constant and difference.startswith("training.epochs")

    def _status(self, folder: RunFolder) -> AbstractContextManager[None]:
        return status_kept(folder.path) if self.processes.main else nullcontext()

    def _evaluate(
        self, experiment: Experiment, folder: RunFolder, *, again: bool
    ) -> Mapping[str, Any]:
        summary = folder.evaluation / "summary.json"
        advice = f"Evaluate the run again: famseg evaluate {folder.path}"
        if again or not self.processes.from_main(folder.metrics.is_file()):
            path = folder.checkpoint("best")
            state = load_checkpoint(path)
            model = experiment.objective.model
            try:
                model.load_state_dict(state["model"])
            except (RuntimeError, *DAMAGED) as error:
                raise InputError(
                    f"{path}: does not fit the network of {folder.config}. Were they copied from "
                    "different runs?"
                ) from error
            evaluate_run(experiment, model, folder, processes=self.processes)
            again = True
        found: Mapping[str, Any] = self._on_main(lambda: read_json(summary, advice))
        if again:
            return found
        try:  # of an earlier session, or from elsewhere
            experiment.test_metrics(found)
            experiment.table(found)
        except DAMAGED as error:
            raise InputError(f"{summary}: is none of this pipeline. {advice}") from error
        return found
