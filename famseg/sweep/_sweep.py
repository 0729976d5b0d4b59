"""Planning and execution of a sweep."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from famseg.config import load
from famseg.messages import InputError, counted
from famseg.sweep._axes import draws, grid, parse_axes
from famseg.sweep._folder import SweepFolder, find_sweep, open_sweep
from famseg.sweep._halving import Rung, rungs, survivors
from famseg.sweep._local import LocalRunner, Outcome, plan_workers, send_rest, track_finished
from famseg.sweep._state import State, best_until, read_states
from famseg.sweep._store import ready_store
from famseg.sweep._trials import Trial, make_trials

if TYPE_CHECKING:
    from famseg.engine import RunConfig

_logger = logging.getLogger("famseg")

Stop = Callable[[], bool]
Show = Callable[[Sequence[Trial], Mapping[str, State]], None]


@dataclass(frozen=True)
class Request:
    """The request of a sweep.

    Args:
        config: A path or the name of a shipped configuration.
        words: The axes and the fixed settings, see `parse_axes`.
        trials: Number of random settings; None for all combinations.
        draw_seed: Seed of the random settings.
        halving: One out of this many settings is trained further at each stage; None to train all.
        first_epochs: Epochs of the first stage; None to choose.
        limit: Largest number of trials to run this time; None for all.
    """

    config: str
    words: tuple[str, ...]
    trials: int | None = None
    draw_seed: int = 0
    halving: int | None = None
    first_epochs: int | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep that is ready to run.

    Attributes:
        request: The request of the user.
        folder: Its folder.
        trials: The trials, in the order in which they start.
        metric: Name of the validation's key metric, for which higher is better.
        config: The configuration of the first trial.
        stages: The stages of the search; a single one without halving.
    """

    request: Request
    folder: SweepFolder
    trials: tuple[Trial, ...]
    metric: str
    config: RunConfig
    stages: tuple[Rung, ...]

    @property
    def limited(self) -> tuple[Trial, ...]:
        """The trials to run this time."""
        return self.trials[: self.request.limit]

    def states(self) -> dict[str, State]:
        """Return the states of the trials by name."""
        return read_states(self.folder, self.trials, self.metric)


def plan_sweep(request: Request, out: Path, *, dry: bool = False) -> Sweep:
    """Resolve the trials of a sweep.

    Args:
        request: The request of the user.
        out: Folder of the sweep. If it already contains the sweep, finished trials are not rerun,
            and interrupted ones are resumed.
        dry: Whether to write nothing.

    Raises:
        InputError: If an axis, a configuration or the folder is invalid.
    """
    axes = parse_axes(request.words)
    if request.trials is None:
        points = grid([axis for axis in axes if axis.varies])
    else:
        points = draws(
            [axis for axis in axes if axis.varies], request.trials, seed=request.draw_seed
        )
    fixed = [f"{axis.key}={axis.values[0]}" for axis in axes if not axis.varies]
    found = find_sweep(out)
    folder = SweepFolder(out, "new") if dry and found is None else found or open_sweep(out)
    tags = {"sweep_id": folder.sweep_id}
    pipeline, trials = make_trials(request.config, fixed, points, tags=tags)
    config = cast("RunConfig", load(request.config, [*fixed, *_words(trials[0])])[1])
    if not dry:
        folder.note(
            {"config": request.config, "words": list(request.words), "trials": request.trials}
        )
        folder.write_trials(trials)
    return Sweep(
        request=request,
        folder=folder,
        trials=tuple(trials),
        metric=pipeline.KEY_METRIC,
        config=config,
        stages=tuple(_stages(request, trials, config)),
    )


class Runner(Protocol):
    """The backend that runs trials: processes on this machine, Slurm or Ray."""

    def run(
        self, trials: Sequence[Trial], *, until: int | None = None, extra: Sequence[str] = ()
    ) -> Outcome:
        """Run trials to the end, or up to an epoch."""


MakeRunner = Callable[[Callable[[Mapping[str, State]], None]], Runner]


def local_runner(
    sweep: Sweep, show: Callable[[Mapping[str, State]], None], *, jobs: int | None, stop: Stop
) -> LocalRunner:
    """Return the runner of a sweep's trials as processes on this machine.

    Args:
        sweep: The sweep.
        show: Called with the states of the trials.
        jobs: Largest number of simultaneous trials; None to choose it.
        stop: Whether a signal asked to end.
    """
    training = sweep.config.training
    number = len(sweep.limited)
    workers = plan_workers(training.device, training.threads, jobs, number)
    _logger.info(
        "%s, at most %d at once, threads of each: %d%s",
        counted(number, "trial"),
        workers.jobs,
        workers.threads,
        f"; GPUs {', '.join(dict.fromkeys(workers.devices))}" if workers.devices else "",
    )
    return LocalRunner(sweep.folder, sweep.metric, workers, stop=stop, show=show)


def run_sweep(
    sweep: Sweep, make_runner: MakeRunner, *, stop: Stop, show: Show, several_machines: bool = False
) -> Outcome:
    """Run a sweep, stage by stage.

    Args:
        sweep: The sweep.
        make_runner: Creates the runner of the trials, such as `local_runner`.
        stop: Whether a signal asked to end.
        show: Called about every two seconds with the trials of the stage and their states.
        several_machines: Whether trials run on other machines.

    Returns:
        The final states of all trials, and the failed ones.

    Raises:
        InputError: If the MLflow store cannot be opened.
    """
    tracking = sweep.config.tracking
    later = tracking.enabled and not ready_store(tracking.uri, several_machines=several_machines)
    current = list(sweep.limited)
    runner = make_runner(lambda states: show(current, states))
    outcome = Outcome()
    for stage in sweep.stages:
        current = _of_stage(sweep, current, stage)
        until = stage.epoch if stage is not sweep.stages[-1] else None
        ended = runner.run(current, until=until, extra=["tracking.enabled=false"] * later)
        outcome.failed |= ended.failed
        if stop():
            break
    if later and not stop():
        _logger.info("tracking the finished trials from their run folders")
        track_finished(sweep.folder, current, sweep.metric, stop=stop)
    elif tracking.enabled and not stop():
        send_rest(sweep.folder, current, sweep.metric, stop=stop)
    outcome.states = sweep.states()
    return outcome


def _of_stage(sweep: Sweep, trials: Sequence[Trial], stage: Rung) -> list[Trial]:
    """Return the trials of a stage, which are the best of the previous stage."""
    index = sweep.stages.index(stage)
    if index == 0:
        return list(trials)
    epoch = sweep.stages[index - 1].epoch
    values = {
        trial.name: best_until(sweep.folder.run_folder(trial), sweep.metric, epoch)
        for trial in trials
    }
    kept = survivors(trials, values, stage.settings)
    settings = len({trial.setting for trial in trials})
    _logger.info(
        "after epoch %d: the %d best of %d settings are trained to epoch %d",
        epoch,
        stage.settings,
        settings,
        stage.epoch,
    )
    return kept


def _stages(request: Request, trials: Sequence[Trial], config: RunConfig) -> list[Rung]:
    settings = len({trial.setting for trial in trials})
    if request.halving is None:
        if request.first_epochs is not None:
            raise InputError("--first-epochs: needs --halving. Give both, or leave it out.")
        return [Rung(config.training.epochs, settings)]
    if len({trial.epochs for trial in trials}) > 1:
        raise InputError("training.epochs: cannot vary with --halving, which sets the epochs.")
    return rungs(
        config.training.epochs,
        settings,
        factor=request.halving,
        first=request.first_epochs,
        every=config.training.validate_every,
    )


def _words(trial: Trial) -> list[str]:
    return [f"{key}={value}" for key, value in trial.point.items()]
