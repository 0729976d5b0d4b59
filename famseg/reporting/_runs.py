"""Reading of runs from their folders: settings, progress and results."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from famseg.config import load, read
from famseg.files import read_json
from famseg.messages import DAMAGED, InputError, counted
from famseg.runs import RunFolder, read_status
from famseg.tracking import flatten, method_label, read_metrics, text_of

Checkpoint = Literal["best", "last"]

FINISHED = "finished"
# Numbers of every run in addition to those of its evaluation.
SECONDS, EPOCHS = "seconds", "epochs"

_MLFLOW_RUN = re.compile(r"[0-9a-f]{32}")

# Larger numbers are never measured, and their sums of squares would exceed float64.
LARGEST = 1e100

# Keys in which runs of one method may differ: location, speed and random numbers. Data are
# distinguished by their fingerprint, since the same data may be in different folders.
FREE = (
    "data.root",
    "name",
    "output",
    "seed",
    "tracking",
    "training.device",
    "training.keep",
    "training.picture_every",
    "training.threads",
    "training.workers",
)


@dataclass(frozen=True)
class Run:
    """A run and its results.

    Attributes:
        path: The run folder.
        pipeline: Name of its pipeline.
        seed: Its seed.
        method: Label of its method, see ``famseg.tracking.method_label``.
        plain: Whether it was trained with neither a penalty nor SAM or another way of finding flat
            minima.
        settings: The configuration by dotted key, as texts, without keys in which runs of one
            method may differ and without unset keys.
        data_hash: Fingerprint of the data; None if it is unknown.
        created: When it began, ISO 8601 in UTC.
        state: ``finished``, or a description of its progress.
        metrics: The numbers of the final evaluation by flat name; ``seconds``: time of the training
            without validation, ``epochs``: number of epochs trained.
        checkpoint: The checkpoint whose evaluation was read, ``best`` or ``last``.
        evaluation: The folder of that evaluation.
        noted: Whether the evaluation states its checkpoint, which older ones do not.
    """

    path: Path
    pipeline: str
    seed: int
    method: str
    plain: bool
    settings: Mapping[str, str]
    data_hash: str | None
    created: str
    state: str
    metrics: Mapping[str, float]
    checkpoint: Checkpoint
    evaluation: Path
    noted: bool

    @property
    def finished(self) -> bool:
        """Whether it was trained and evaluated completely."""
        return self.state == FINISHED


@dataclass(frozen=True)
class Found:
    """The runs below the given folders.

    Attributes:
        runs: All runs, including unfinished ones.
        notes: A line for each folder that could not be read completely.
    """

    runs: tuple[Run, ...]
    notes: tuple[str, ...]


def find_runs(paths: Sequence[Path | str], checkpoint: Checkpoint = "best") -> Found:
    """Read run folders, and all run folders below other folders.

    Args:
        paths: Run folders (with ``config.yaml`` and ``provenance.json``), or folders above them.
        checkpoint: The checkpoint whose evaluations are read: ``best``, which training evaluates,
            or ``last``, see ``famseg evaluate``. One never replaces the other.

    Raises:
        InputError: If a path is not a folder, or there is no run below it that can be read.
    """
    runs: dict[Path, Run] = {}
    notes, faults = [], []
    for path in map(Path, paths):
        folders, empty = _folders(path)
        if not folders:
            what = "contains no run folder (one with config.yaml and provenance.json)"
            found = what if path.is_dir() else "is not a folder"
            faults.append(f"{path}: {found}. Give a folder of runs.")
        notes += [f"{each}: is empty: the run ended before it started" for each in empty]
        notes += _not_begun(path, folders)
        for folder in folders:
            if folder.resolve() in runs:
                continue
            try:
                run, note = _read(folder, checkpoint)
            except InputError as error:
                notes.append(f"{error.faults[0]}. The run is left out.")
            else:
                runs[folder.resolve()] = run
                notes += [note] if note else []
    if faults:
        raise InputError(*faults)
    if not runs:
        raise InputError(*notes)
    return Found(tuple(runs.values()), tuple(dict.fromkeys(notes)))


def _folders(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the run folders at and below a path, and the empty folders there."""
    runs, empty = [], []
    for place, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if Path(place).name == "artifacts" and _MLFLOW_RUN.fullmatch(Path(place).parent.name):
            folders.clear()  # copies of a run's files instead of a run
            continue
        if {"config.yaml", "provenance.json"} <= set(files):
            runs.append(Path(place))
            folders.clear()
        elif not folders and not files and Path(place) != path:
            empty.append(Path(place))
    return runs, empty


def _not_begun(path: Path, folders: Sequence[Path]) -> list[str]:
    """Return a line about the trials of a sweep that have no run folder."""
    if not (path / "sweep.json").is_file():
        return []
    trials = {each.stem for each in (path / "configs").glob("*.yaml")}
    left = sorted(trials - {folder.name for folder in folders})
    if not left:
        return []
    some = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
    return [f"{path}: {counted(len(left), 'trial')} of the sweep did not start: {some}"]


def _read(path: Path, checkpoint: Checkpoint) -> tuple[Run, str | None]:
    folder = RunFolder(path)
    config, note = _configuration(folder.config)
    try:
        return _described(folder, config, checkpoint), note
    except DAMAGED as error:
        if note is None:  # the configuration was valid and is not the reason
            raise
        raise InputError(
            f"{folder.config}: is not the configuration of a run ({type(error).__name__})"
        ) from error


def _described(folder: RunFolder, config: Mapping[str, Any], checkpoint: Checkpoint) -> Run:
    path = folder.path
    origin = read_json(folder.provenance, "Restore the file")
    epochs, seconds = _course(path)
    training = config.get("training") or {}
    evaluated = _evaluated(folder, checkpoint)
    state, metrics = _result(folder, checkpoint, evaluated, epochs, training.get("epochs"))
    if metrics and seconds is not None:
        metrics[SECONDS] = seconds
    if metrics:
        metrics[EPOCHS] = float(epochs)
    seed, data_hash = config.get("seed"), origin.get("data_hash")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"{folder.config}: has no seed: is it the configuration of a run?")
    return Run(
        path=path,
        pipeline=str(config.get("pipeline")),
        seed=seed,
        method=method_label(config),
        plain=not _weight(config) and not _finds_flat_minima(config),
        settings=_settings(config),
        data_hash=None if data_hash is None else str(data_hash),
        created=str(origin.get("created", "")),
        state=state,
        metrics=metrics,
        checkpoint=checkpoint,
        evaluation=folder.evaluation_of(checkpoint),
        noted=evaluated is not None,
    )


def _configuration(path: Path) -> tuple[dict[str, Any], str | None]:
    """Return a resolved configuration with the keys that users write, including defaults."""
    try:
        return load(str(path))[1].model_dump(mode="json", by_alias=True), None
    except InputError as error:
        # From another version or a pipeline that is not installed; the file contains all keys.
        values = read(str(path)).values
        return values, f"{error.faults[0]} The run is compared as its configuration was written."


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    if not _weight(config):  # with lambda 0, the other settings of a penalty have no effect
        config = {**config, "penalty": {"kind": "none"}}
    return {
        key: text_of(value)
        for key, value in sorted(flatten(config).items())
        if value is not None and not any(key == free or key.startswith(f"{free}.") for free in FREE)
    }


def _weight(config: Mapping[str, Any]) -> float:
    return float((config.get("penalty") or {}).get("lambda") or 0.0)


def _finds_flat_minima(config: Mapping[str, Any]) -> bool:
    training = config.get("training") or {}
    return any(map(bool, (config.get("sam"), config.get("nso"), training.get("swa"))))


def _course(path: Path) -> tuple[int, float | None]:
    """Return the number of epochs trained, and their total time in seconds."""
    history = read_metrics(path)
    times = [row["train/epoch_seconds"] or 0.0 for row in history if "train/epoch_seconds" in row]
    last = max((int(row["epoch"] or 0) for row in history), default=0)
    return last, sum(times) if times else None


def _evaluated(folder: RunFolder, checkpoint: Checkpoint) -> str | None:
    """Return the checkpoint stated in an evaluation; None if it is not stated."""
    note = folder.evaluation_of(checkpoint) / "checkpoint.json"
    return str(read_json(note, "Evaluate it again").get("checkpoint")) if note.is_file() else None


def _result(
    folder: RunFolder,
    checkpoint: Checkpoint,
    evaluated: str | None,
    epochs: int,
    planned: int | None,
) -> tuple[str, dict[str, float]]:
    """Return the progress of a run, and the numbers of its evaluation."""
    place, command = folder.evaluation_of(checkpoint), f"famseg evaluate {folder.path}"
    if checkpoint != "best":
        command += f" --checkpoint {checkpoint}"
    metrics = place / folder.metrics.name
    status = read_status(folder.path)
    # A run that is extended has the evaluation of the shorter one until its end.
    cut = planned is not None and epochs < planned and status not in (None, FINISHED)
    if metrics.is_file() and not cut:
        if evaluated not in (None, checkpoint):
            return f"{place.name} is of another checkpoint ({evaluated}): {command}", {}
        content = read_json(metrics, "Evaluate it again")
        if not all(isinstance(v, int | float) and abs(v) <= LARGEST for v in content.values()):
            raise InputError(f"{metrics}: must contain names and numbers. Evaluate it again")
        return FINISHED, {name: float(value) for name, value in content.items()}
    if (place / "summary.json").is_file() and not cut:
        return f"evaluated by another version: {command}", {}
    if checkpoint != "best" and folder.metrics.is_file() and not cut:
        return f"{checkpoint}.pt is not evaluated: {command}", {}
    if planned is not None and epochs >= planned:
        course = "trained, not evaluated"
    else:
        course = f"{epochs} of {counted(planned or 0, 'epoch')}" if epochs else "no epoch finished"
    return f"{course}, {status}" if status else course, {}
