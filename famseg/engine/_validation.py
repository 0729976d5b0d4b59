"""Validation with MONAI's evaluator, with the cases distributed to the ranks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any, cast

import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.networks.utils import eval_mode
from torch import Tensor, nn
from torch.utils.data import Dataset

from famseg.engine._experiment import Experiment
from famseg.engine._loader import batch_loader
from famseg.engine._network import in_memory_format
from famseg.engine._processes import Processes
from famseg.engine._scores import Row
from famseg.engine._step import to_device
from famseg.flatness import call_model


class Validator:
    """Scores the validation cases; each rank processes every ``world``-th case.

    Args:
        experiment: Data and scores.
        model: The network, not wrapped.
        processes: The ranks of the run.
        device: The device of the computation.
        batch_size: Cases per forward pass.
        memory_format: Memory format of a batch's images.
        data: The cases; by default those of the validation.
        workers: Worker processes that load data, started for each validation; 0 for this process.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: nn.Module,
        *,
        processes: Processes,
        device: torch.device,
        batch_size: int,
        memory_format: torch.memory_format = torch.preserve_format,
        data: Dataset[Mapping[str, Any]] | None = None,
        workers: int = 0,
    ) -> None:
        self.data = experiment.validation if data is None else data
        self.experiment = experiment
        self.memory_format = memory_format
        self.model = model
        self.processes = processes
        self.device = device
        self.workers = workers
        cases = list(range(processes.rank, len(self.data), processes.world))  # type: ignore[arg-type]  # map-style data sets have a length
        self._batches = [cases[at : at + batch_size] for at in range(0, len(cases), batch_size)]
        self._rows: list[Row] = []
        self._evaluator: SupervisedEvaluator | None = None

    def __call__(self) -> dict[str, float]:
        """Return mean and standard deviation of each score, and the count; every rank must call.

        Names are ``val/<metric>``, ``val/<metric>_std`` and ``val/n``. A metric that is not finite
        in all cases is NaN.
        """
        rows = self.rows()
        metrics = {"val/n": float(len(rows))}
        for name in (key for key, value in rows[0].items() if isinstance(value, float)):
            # fmean of sorted values, so that the sum does not depend on the distribution of cases.
            values = sorted(row[name] for row in rows)
            finite = all(map(math.isfinite, values))  # otherwise there is no standard deviation
            metrics[f"val/{name}"] = statistics.fmean(values) if finite else math.nan
            metrics[f"val/{name}_std"] = statistics.pstdev(values) if finite else math.nan
        return metrics

    def rows(self) -> list[Row]:
        """Return the score rows of all cases, in their order; every rank must call."""
        self._rows = []
        # MONAI's metric handlers hang if a rank has no case.
        if self._batches:
            self._evaluator = self._evaluator or self._assemble()
            self._evaluator.run()
        parts = self.processes.gather(self._rows)
        # Distributed round-robin, and merged in the same order.
        return [part[i] for i in range(len(parts[0])) for part in parts if i < len(part)]

    def _assemble(self) -> SupervisedEvaluator:
        # Created at the first validation, when it is known how much of /dev/shm training uses.
        loader = batch_loader(
            self.data,
            self._batches,
            collate=self.experiment.collate,
            workers=min(self.workers, len(self._batches)),
            pin_memory=self.device.type == "cuda",
            speaks=False,  # training has already warned, with more batches
        )
        return SupervisedEvaluator(
            device=self.device,
            val_data_loader=loader,
            network=self.model,
            iteration_update=self._score,
            decollate=False,
        )

    def _score(self, engine: Engine, batch: Mapping[str, Any]) -> None:
        moved = in_memory_format(to_device(batch, self.device), self.memory_format)
        with torch.no_grad(), eval_mode(self.model):
            outputs = call_model(self.model, moved[self.experiment.objective.inputs])
        self._rows += self.experiment.score(cast("Tensor", outputs), moved)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
