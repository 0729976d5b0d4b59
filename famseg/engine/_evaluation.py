"""The final evaluation of a run, with its numbers in one flat file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from famseg.engine._experiment import Experiment
from famseg.engine._processes import Processes
from famseg.engine._run import RunFolder
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
    summary = experiment.evaluate(model, folder.evaluation, processes=processes)
    if processes.main:
        write_json(folder.metrics, dict(experiment.test_metrics(summary)))
    return summary
