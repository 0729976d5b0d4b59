"""The state of a trial, which is derived only from its run folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from famseg.messages import InputError
from famseg.runs import RunFolder, owner_of, read_status, was_killed
from famseg.sweep._folder import SweepFolder
from famseg.sweep._trials import Trial
from famseg.tracking import read_metrics

Kind = Literal["waiting", "running", "paused", "interrupted", "failed", "finished"]


@dataclass(frozen=True)
class State:
    """The state of a trial.

    Attributes:
        kind: ``waiting`` (not started), ``running`` (owned by a living process), ``paused`` (at the
            requested epoch), ``interrupted`` (by a signal or a kill, to be resumed), ``failed``,
            ``finished`` (trained, evaluated and reported).
        epoch: Number of completed epochs.
        best: Best value of the validation's key metric so far; None before the first.
        seconds: Time of the completed epochs.
        where: Host of a trial that runs on another machine; else empty.
        reason: Why it failed or was interrupted; else empty.
    """

    kind: Kind
    epoch: int = 0
    best: float | None = None
    seconds: float = 0.0
    where: str = ""
    reason: str = ""


def read_state(path: Path, metric: str) -> State:
    """Return the state of the trial in a run folder, which requires reading two small files.

    Args:
        path: The run folder, which need not exist.
        metric: Name of the validation's key metric, such as ``dsc``.
    """
    folder = RunFolder(path)
    owner = owner_of(path) if path.is_dir() else None
    if not folder.config.is_file():
        where = "" if owner is None or owner.near else owner.host
        return State("waiting" if owner is None else "running", where=where)
    try:
        rows = read_metrics(path)
    except InputError as error:
        return State("failed", reason=error.faults[0])
    epoch, best, seconds = _course(rows, f"val/{metric}")
    if owner is not None:
        return State("running", epoch, best, seconds, where="" if owner.near else owner.host)
    status = read_status(path) or "killed"
    kind, _, reason = status.partition(" (")
    reason = reason.removesuffix(")")
    # A trial killed after its evaluation has neither a report nor an end in MLflow.
    if kind == "finished" and folder.metrics.is_file() and not was_killed(path):
        return State("finished", epoch, best, seconds)
    if kind == "failed":
        return State("failed", epoch, best, seconds, reason=reason)
    if reason.startswith("paused"):
        return State("paused", epoch, best, seconds, reason=reason)
    return State("interrupted", epoch, best, seconds, reason=reason or "killed")


def read_states(folder: SweepFolder, trials: Sequence[Trial], metric: str) -> dict[str, State]:
    """Return the states of the trials of a sweep by name."""
    return {trial.name: read_state(folder.run_folder(trial), metric) for trial in trials}


def unfinished(
    trials: Sequence[Trial],
    states: Mapping[str, State],
    *,
    until: int | None,
    without: Collection[str] = (),
) -> list[Trial]:
    """Return the trials that are not done and that no process is running.

    Args:
        trials: The trials, in the order in which they start.
        states: The states of the trials by name.
        until: The epoch up to which they are trained; None for the end.
        without: Names of trials to skip because they were just started or failed.
    """
    return [
        trial
        for trial in trials
        if trial.name not in without
        and states[trial.name].kind != "running"
        and not done(trial, states[trial.name], until)
    ]


def best_until(path: Path, metric: str, epoch: int) -> float | None:
    """Return the best validation up to an epoch; None if there was none.

    Args:
        path: The run folder.
        metric: Name of the validation's key metric.
        epoch: The last epoch to include, so that trials are compared after the same number.
    """
    rows = read_metrics(path) if RunFolder(path).config.is_file() else []
    return _course([row for row in rows if (row["epoch"] or 0) <= epoch], f"val/{metric}")[1]


def done(trial: Trial, state: State, until: int | None = None) -> bool:
    """Return whether a trial is done completely or up to an epoch."""
    if state.kind == "finished":
        return True
    return until is not None and state.kind != "running" and until <= state.epoch < trial.epochs


def _course(
    rows: Sequence[Mapping[str, float | None]], key: str
) -> tuple[int, float | None, float]:
    values = [value for row in rows if (value := row.get(key)) is not None]
    epoch = max((int(row["epoch"] or 0) for row in rows), default=0)
    seconds = sum(row.get("train/epoch_seconds") or 0.0 for row in rows)
    return epoch, max(values, default=None), seconds
