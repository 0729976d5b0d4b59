"""The final evaluation of a run, with its numbers in one flat file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from famseg.engine._experiment import Evaluate, Experiment, Saved
from famseg.engine._processes import Processes
from famseg.engine._scores import write_scores
from famseg.engine._validation import Validator
from famseg.files import open_to_read, read_json
from famseg.messages import InputError
from famseg.runs import RunFolder
from famseg.tracking import write_json

_BEST = "best"
_METRICS_FILE = "metrics.json"
_CHECKPOINT_FILE = "checkpoint.json"  # what was evaluated


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
    """Evaluate a network into its run folder; every process must call.

    Args:
        experiment: The task.
        model: The trained network.
        folder: The run folder. Its folder ``evaluation``, or ``evaluation-last``, gets
            ``checkpoint.json``, which says what was evaluated, and last ``metrics.json``, flat
            names and numbers: where that one is, the evaluation is complete.
        processes: The processes of the run.
        epoch: The epoch of the network's weights.
        checkpoint: The checkpoint that they are from, ``best`` or ``last``.
        save: Whose predictions are written, those of ``failed`` or of ``all`` cases; None for none.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        InputError: If the pipeline has no predictions to save.
    """
    evaluate: Evaluate = experiment.evaluate or _Scores(experiment)
    if save is not None:
        if experiment.saving is None:
            raise InputError(
                "--save: the predictions of this pipeline are in its table of cases. Leave it out."
            )
        evaluate = experiment.saving(save)
    place = folder.evaluation_of(checkpoint)
    if processes.main:
        (place / _METRICS_FILE).unlink(missing_ok=True)
    summary = evaluate(model, place, processes=processes)
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
    """Return whether the best checkpoint, as it is now, was evaluated to the end.

    Reads the checkpoint once. Where it is not noted what was evaluated, as in older runs, the
    evaluation is believed.

    Raises:
        InputError: If the note is damaged.
    """
    if not folder.metrics.is_file():
        return False
    note, path = folder.evaluation / _CHECKPOINT_FILE, folder.checkpoint(_BEST)
    if not note.is_file() or not path.is_file():
        return True
    advice = f"Evaluate the run again: famseg evaluate {folder.path}"
    return read_json(note, advice).get("sha256") == _hash(path)


def _hash(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if it is not there: the network was given otherwise."""
    try:
        with open_to_read(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


# Cases per forward pass: an evaluation keeps nothing for a backward pass.
_BATCH = 64


class _Scores:
    """The evaluation of an experiment that brings none: the scores of its test cases."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def __call__(
        self, model: nn.Module, folder: Path, *, processes: Processes
    ) -> Mapping[str, Any]:
        device = next(model.parameters()).device
        rows = {
            name: Validator(
                self.experiment,
                model,
                processes=processes,
                device=device,
                batch_size=_BATCH,
                data=data,
            ).rows()
            for name, data in self.experiment.tests.items()
        }
        return write_scores(rows, folder) if processes.main else {}
