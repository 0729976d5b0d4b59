"""Common parts of pipelines with classes: metrics, evaluation, and the flatness of the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famseg import datasets, engine, evaluation, objectives
from famseg.config import flatten

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    Cases = Dataset[Mapping[str, Any]]

KEY_METRIC = "accuracy"
SCORES = ("test/accuracy", "test/loss", "test/ece", "test/gap")
# Largest numbers of training samples, stratified by class and without augmentation, for the gap to
# the test and for the flatness of the head.
EVALUATED, MONITORED = 5000, 512


class ClassesExperiment(engine.Experiment):
    """A network that predicts one class per sample.

    Args:
        config: The configuration of the run.
        device: The device of the network.
        objective: Maps a batch to terms, with a network whose ``body`` can be compiled and whose
            last layer is ``head``.
        data: Contains names of the classes, fingerprint and manifest.
        train: The training samples, which may be augmented.
        validation: The samples that choose the best epoch.
        tests: The sets of the evaluation: ``test``, and ``train`` for the gap between the two.
        monitored: The training samples on which the flatness of the head is measured every epoch.
    """

    key_metric = KEY_METRIC
    scores = SCORES
    batch_size = 256  # for monitoring and evaluation

    def __init__(
        self,
        config: engine.RunConfig,
        device: torch.device,
        objective: objectives.Objective,
        data: datasets.ImageSplits | datasets.TextSplits,
        *,
        train: Cases,
        validation: Cases,
        tests: Mapping[str, Cases],
        monitored: Cases,
    ) -> None:
        super().__init__(
            config,
            objective,
            train=train,
            validation=validation,
            tests={"test": tests["test"]},
            data_hash=data.fingerprint,
        )
        self.device = device
        self.data = data
        self.evaluated = tests
        self.monitored = monitored
        self.compilable = objective.model.get_submodule("body")

    def score(self, outputs: Tensor, batch: engine.Batch) -> Sequence[engine.Row]:
        """Return prediction, confidence and loss of each sample."""
        return evaluation.classification_rows(outputs, batch)

    def monitor(self, model: nn.Module) -> Mapping[str, float]:
        """Return kappa and norm of the head, on the same training samples in every epoch."""
        measure = evaluation.HeadMonitor(
            self.monitored,
            self.device,
            inputs=self.objective.inputs,
            collate=self.collate,
            batch_size=self.batch_size,
        )
        return measure(model)

    def evaluate(
        self,
        model: nn.Module,
        folder: Path,
        *,
        processes: engine.Processes,
        save: engine.Saved | None = None,
    ) -> Mapping[str, Any]:
        """Evaluate test samples, and training samples without augmentation."""
        logs = {name: engine.log_progress(f"evaluating {name}") for name in self.evaluated}
        return evaluation.evaluate_classification(
            evaluation.Logits(model, self.device),
            self.evaluated,
            folder,
            classes=self.data.classes,
            collate=self.collate,
            inputs=self.objective.inputs,
            batch_size=self.batch_size,
            processes=processes,
            progress=lambda name, done, of: logs[name](done, of),
        )

    def test_metrics(self, summary: Mapping[str, Any]) -> Mapping[str, float]:
        """Return accuracy, loss, calibration and gap as flat names and numbers."""
        return evaluation.classification_metrics(summary)

    def table(self, summary: Mapping[str, Any]) -> str:
        """Return the summary as a table with 95 % intervals."""
        return evaluation.classification_table(summary)

    def signs(self, history: engine.History, summary: Mapping[str, Any]) -> Sequence[str]:
        """Return sentences about signs of failure."""
        return evaluation.classification_signs(
            history,
            summary,
            weight=self.config.penalty.weight,
            kind=self.config.penalty.kind,
            settings=flatten(self.config),
            key_metric=KEY_METRIC,
        )

    def write_manifest(self, path: Path) -> None:
        """Write the samples and their splits to a CSV file."""
        self.data.write_manifest(path)
