"""The final evaluation of a run, with its numbers in one flat file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from famseg.engine._experiment import Experiment
from famseg.engine._processes import Processes
from famseg.engine._scores import write_scores
from famseg.engine._validation import Validator
from famseg.runs import RunFolder
from famseg.tracking import write_json


def evaluate_run(
    experiment: Experiment, model: nn.Module, folder: RunFolder, *, processes: Processes
) -> Mapping[str, Any]:
    """Evaluate a network into its run folder; every process must call.

    Args:
        experiment: The task.
        model: The trained network.
        folder: The run folder. ``evaluation/metrics.json``, flat names and numbers, is written
            last: where it is, the evaluation is complete.
        processes: The processes of the run.

    Returns:
        The summary, as in ``evaluation/summary.json``.
    """
    if processes.main:
        folder.metrics.unlink(missing_ok=True)
    evaluate = experiment.evaluate or _Scores(experiment)
    summary = evaluate(model, folder.evaluation, processes=processes)
    if processes.main:
        write_json(folder.metrics, dict(experiment.test_metrics(summary)))
    return summary


# Cases a forward pass: an evaluation keeps nothing for a backward pass.
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
