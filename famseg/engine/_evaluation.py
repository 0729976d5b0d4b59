"""The final evaluation of a run, whose numbers are written to one flat file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from famseg.engine._experiment import Experiment, Saved
from famseg.engine._processes import Processes
from famseg.files import open_to_read, read_json, write_json
from famseg.messages import InputError
from famseg.runs import RunFolder

_BEST = "best"
_METRICS_FILE = "metrics.json"
_CHECKPOINT_FILE = "checkpoint.json"  # states what was evaluated


def evaluate_run(
    experiment: Experiment,
    model: nn.Module,
    folder: RunFolder,
    *,
    processes: Processes,
    epoch: int,
    checkpoint: str = _BEST,
    save: Saved | None = None,
) -> Mapping[str, Any]:
    """Evaluate a network into its run folder; every rank must call.

    Args:
        experiment: The task.
        model: The trained network.
        folder: The run folder. Its folder ``evaluation``, or ``evaluation-last``, gets
            ``checkpoint.json``, which says what was evaluated, and last ``metrics.json``, flat
            names and numbers: where that one is, the evaluation is complete.
        processes: The ranks of the run.
        epoch: The epoch of the network's weights.
        checkpoint: The checkpoint that they are from, ``best`` or ``last``.
        save: Whose predictions are written, those of ``failed`` or of ``all`` cases; None for none.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        InputError: If the pipeline has no predictions to save.
    """
    if save is not None and not experiment.saves_predictions:
        raise InputError(
            "--save: this pipeline writes no predictions beyond its table of cases. Leave it out."
        )
    place = folder.evaluation_of(checkpoint)
    if processes.main:
        (place / _METRICS_FILE).unlink(missing_ok=True)
    summary = experiment.evaluate(model, place, processes=processes, save=save)
    if processes.main:
        origin = {
            "checkpoint": checkpoint,
            "epoch": epoch,
            "sha256": _hash(folder.checkpoint(checkpoint)),
        }
        write_json(place / _CHECKPOINT_FILE, origin)
        write_json(place / _METRICS_FILE, dict(experiment.test_metrics(summary)))
    return summary


def is_evaluated(folder: RunFolder) -> bool:
    """Return whether the current best checkpoint was evaluated completely.

    This reads the checkpoint once. If it is not recorded what was evaluated, as in older runs, the
    evaluation is assumed to be valid.

    Raises:
        InputError: If the record is damaged.
    """
    if not folder.metrics.is_file():
        return False
    note, path = folder.evaluation / _CHECKPOINT_FILE, folder.checkpoint(_BEST)
    if not note.is_file() or not path.is_file():
        return True
    advice = f"Evaluate the run again: famseg evaluate {folder.path}"
    return read_json(note, advice).get("sha256") == _hash(path)


def _hash(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if it does not exist, as for a network from elsewhere."""
    try:
        with open_to_read(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
