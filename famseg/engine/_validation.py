"""Validation on MONAI's evaluator, its cases dealt out to the processes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.networks.utils import eval_mode
from torch import nn
from torch.utils.data import DataLoader, Subset

from famseg.engine._experiment import Experiment, Row
from famseg.engine._processes import Processes
from famseg.engine._step import to_device


class Validator:
    """Scores the validation cases; each process takes every ``world``-th.

    Args:
        experiment: Data and scores.
        model: The network, not wrapped.
        processes: The processes of the run.
        device: Where to compute.
        batch_size: Cases a forward pass.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: nn.Module,
        *,
        processes: Processes,
        device: torch.device,
        batch_size: int,
    ) -> None:
        self.experiment = experiment
        self.model = model
        self.processes = processes
        self.device = device
        cases = range(processes.rank, len(experiment.validation), processes.world)  # type: ignore[arg-type]  # a map-style set has a length
        loader = DataLoader(Subset(experiment.validation, list(cases)), batch_size=batch_size)
        self._rows: list[Row] = []
        # MONAI's own metric handlers gather in a way that hangs when a process has no case.
        self._evaluator = (
            SupervisedEvaluator(
                device=device,
                val_data_loader=loader,
                network=model,
                iteration_update=self._score,
                decollate=False,
            )
            if len(cases)
            else None
        )

    def __call__(self) -> dict[str, float]:
        """Return ``val/<metric>``, its standard deviation and count; every process must ask."""
        self._rows = []
        if self._evaluator is not None:
            self._evaluator.run()
        rows = [row for part in self.processes.gather(self._rows) for row in part]
        key = self.experiment.key_metric
        # fmean of sorted values: the sum does not depend on how the cases were dealt out.
        values = sorted(row[key] for row in rows)
        return {
            f"val/{key}": statistics.fmean(values),
            f"val/{key}_std": statistics.pstdev(values),
            "val/n": float(len(values)),
        }

    def _score(self, engine: Engine, batch: Mapping[str, Any]) -> None:
        moved = to_device(batch, self.device)
        with torch.no_grad(), eval_mode(self.model):
            outputs = self.model(moved[self.experiment.objective.inputs])
        self._rows += self.experiment.score(outputs, moved)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
