"""Kappa and the generalization gap of runs, from files of training, evaluation and `measure`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from famseg.files import read_json
from famseg.messages import InputError
from famseg.reporting._runs import Run
from famseg.runs import RunFolder
from famseg.tracking import read_metrics

History = Sequence[Mapping[str, float | None]]
_Way = Callable[[Run, Mapping[str, float | None]], float | None]

MEASURED, ESTIMATED = "train/kappa", "train/penalty"
_TEST_GAP = "test/gap_loss"
_FLATNESS = "relative_flatness"
VALIDATION_GAP = "validation loss minus training loss"
TEST_GAP = "test loss minus training loss, both evaluated"


@dataclass(frozen=True)
class Point:
    """A point in a figure: kappa and gap of one network.

    Attributes:
        name: The run, or the epoch.
        kappa: Its relative flatness.
        gap: Its generalization gap, in units of the loss.
    """

    name: str
    kappa: float
    gap: float


@dataclass(frozen=True)
class Gaps:
    """Points that are comparable because they share their definitions.

    Attributes:
        points: Points by group.
        kappa: Axis label with the kind of kappa.
        gap: Axis label with the kind of gap.
        missing: Runs for which one of the two is not known.
    """

    points: Mapping[str, Sequence[Point]]
    kappa: str
    gap: str
    missing: tuple[str, ...] = ()


def kappa_of(settings: Mapping[str, str], history: History) -> tuple[str, str] | None:
    """Return the series of kappa in a record of epochs, and its kind; None if there is none.

    Args:
        settings: The configuration by dotted key.
        history: One mapping per epoch.
    """
    if any(MEASURED in row for row in history):
        return MEASURED, "kappa of the head, fixed training samples"
    if settings.get("penalty.kind") == _FLATNESS and any(ESTIMATED in row for row in history):
        return ESTIMATED, _estimated(settings)
    return None


def _estimated(settings: Mapping[str, str]) -> str:
    per = " / number of features" if settings.get("penalty.normalize") == "features" else ""
    return f"kappa{per} of {settings.get('penalty.layer', 'the layer')}, mean over the epoch"


def course(settings: Mapping[str, str], history: History) -> Gaps | None:
    """Return kappa and gap over the epochs of a run; None if either was not recorded."""
    found = kappa_of(settings, history)
    if found is None:
        return None
    name, label = found
    points = [
        Point(str(row["epoch"]), kappa, gap)
        for row in history
        if (kappa := row.get(name)) is not None and (gap := _gap(row)) is not None
    ]
    return Gaps({"": points}, label, VALIDATION_GAP) if points else None


def gaps(groups: Mapping[str, Sequence[Run]]) -> Gaps | None:
    """Return kappa and gap of each run at the evaluated epoch.

    Args:
        groups: Finished runs by group.

    Returns:
        The points; None if fewer than two runs have both.
    """
    gap_label, of_gap = gap_values(groups)
    kappa_label, of_kappa = kappa_values(groups, of_gap.keys())
    if len(of_kappa) < 2:
        return None
    points: dict[str, list[Point]] = {}
    missing = []
    for name, runs in groups.items():
        for run in runs:
            if run.path in of_kappa:
                point = Point(run.path.name, of_kappa[run.path], of_gap[run.path])
                points.setdefault(name, []).append(point)
            else:
                missing.append(run.path.name)
    return Gaps(points, kappa_label, gap_label, tuple(missing))


def gap_values(groups: Mapping[str, Sequence[Run]]) -> tuple[str, dict[Path, float]]:
    """Return the kind of gap of all runs, and the gap of each run that has one, by folder.

    Args:
        groups: Finished runs by group.
    """
    every = [run for runs in groups.values() for run in runs]
    if every and all(_TEST_GAP in run.metrics for run in every):
        return TEST_GAP, {run.path: run.metrics[_TEST_GAP] for run in every}
    found = {run.path: _gap(evaluated_row(run, read_metrics(run.path))) for run in every}
    return VALIDATION_GAP, {path: gap for path, gap in found.items() if gap is not None}


def kappa_values(
    groups: Mapping[str, Sequence[Run]], among: Collection[Path] | None = None
) -> tuple[str, dict[Path, float]]:
    """Return the kind of kappa of all runs, and the kappa of each run that has one, by folder.

    All runs use the same kind: the one that most runs have or, in case of a tie, the first of:
    measured by the training at the end of the epoch, by ``famseg measure`` in the penalized layer,
    or the penalty of the training.

    Args:
        groups: Finished runs by group.
        among: Folders of the runs to include; None for all.
    """
    every = [
        (run, evaluated_row(run, read_metrics(run.path)))
        for runs in groups.values()
        for run in runs
        if among is None or run.path in among
    ]
    layer = _layer(run for runs in groups.values() for run in runs)
    ways: list[tuple[str, _Way]] = [
        ("kappa of the head, fixed training samples", lambda run, row: row.get(MEASURED)),
        (f"kappa of {layer}, by famseg measure", lambda run, _: _measured(run, layer)),
        (
            next((_estimated(run.settings) for run, _ in every if _penalized(run)), ""),
            lambda run, row: row.get(ESTIMATED) if _penalized(run) else None,
        ),
    ]
    best: tuple[str, dict[Path, float]] = ("", {})
    for label, way in ways:
        values = {run.path: way(run, row) for run, row in every}
        found = {path: kappa for path, kappa in values.items() if kappa is not None}
        if len(found) > len(best[1]):
            best = (label, found)
    return best


def _gap(row: Mapping[str, float | None]) -> float | None:
    training, validation = row.get("train/loss"), row.get("val/loss")
    return None if training is None or validation is None else validation - training


def _penalized(run: Run) -> bool:
    return run.settings.get("penalty.kind") == _FLATNESS


def _layer(runs: Iterator[Run]) -> str:
    layers = [run.settings["penalty.layer"] for run in runs if "penalty.layer" in run.settings]
    return max(layers, key=layers.count) if layers else "head"


def evaluated_epoch(run: Run) -> str | None:
    """Return the epoch whose weights were evaluated; None if it is not recorded."""
    note = run.evaluation / "checkpoint.json"
    if not note.is_file():
        return None
    try:
        epoch = read_json(note, "Evaluate the run again.").get("epoch")
    except InputError:
        return None
    return None if epoch is None else str(epoch)


def evaluated_row(run: Run, history: History) -> Mapping[str, float | None]:
    """Return the record of the evaluated epoch, or of the last one if it is not recorded."""
    epoch = evaluated_epoch(run)
    found = [row for row in history if str(row["epoch"]) == epoch]
    return (found or list(history) or [{}])[-1]


def _measured(run: Run, layer: str) -> float | None:
    path = RunFolder(run.path).flatness / "report.json"
    if not path.is_file():
        return None
    try:
        rows = read_json(path, "Measure the run again.").get("rows") or []
        found = [row["kappa"] for row in rows if row["name"] == layer]
    except (InputError, KeyError, TypeError):
        return None
    return found[0] if found and isinstance(found[0], int | float) else None
