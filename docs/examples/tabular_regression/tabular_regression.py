"""Regression on a table: the progression of diabetes, from ten measurements of 442 patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.utils.data import Dataset

from famseg import engine, objectives

KEY_METRIC = "negative_squared_error"  # its mean chooses the best epoch: larger is better


class Config(engine.RunConfig):
    """The keys that every run has, and one of this task."""

    pipeline: Literal["tabular_regression"]
    hidden: int = Field(32, gt=0, description="width of the hidden layer")


class Table(Dataset[Mapping[str, Any]]):
    """Rows of a table. The index counts on from epoch to epoch, for data sets that augment."""

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        self.features, self.targets = features, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = index % len(self)
        return {"features": self.features[row], "target": self.targets[row], "subject": str(row)}


class Diabetes(engine.Experiment):
    """The task, whose predictions are scored by their squared error."""

    key_metric = KEY_METRIC
    scores = (f"test/{KEY_METRIC}",)  # what a comparison of runs shows

    def score(self, outputs: Tensor, batch: engine.Batch) -> list[engine.Row]:
        """Return one row per patient; the squared error is in units of the targets' variance."""
        errors = (outputs - batch["target"]).square().flatten().tolist()
        rows = zip(batch["subject"], errors, strict=True)
        return [{"subject": subject, KEY_METRIC: -error} for subject, error in rows]


def build(config: Config, device: torch.device) -> engine.Experiment:
    """Return network and data of a configuration."""
    bunch = load_diabetes()
    features, targets = (torch.tensor(part).float() for part in (bunch.data, bunch.target))
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    train, validation, test = order.split([300, 42, 100])
    shift, scale = targets[train].mean(), targets[train].std()  # of the training rows only
    targets = (targets - shift) / scale
    features = features / features[train].std(0)
    network = nn.Sequential(nn.Linear(10, config.hidden), nn.Tanh(), nn.Linear(config.hidden, 1))
    terms = config.penalty.build(network, nn.MSELoss(), seed=config.seed)

    def table(rows: Tensor) -> Table:
        return Table(features[rows], targets[rows, None])

    return Diabetes(
        config,
        objectives.Objective(terms, inputs="features", targets="target"),
        train=table(train),
        validation=table(validation),
        tests={"test": table(test)},
        data_hash="scikit-learn diabetes",
    )
