"""Regression on a table: how diabetes goes on, from ten measurements of 442 patients."""

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
    """The configuration: what every run has, and what is special here."""

    pipeline: Literal["tabular_regression"]
    hidden: int = Field(32, gt=0, description="width of the hidden layer")


class Table(Dataset[Mapping[str, Any]]):
    """Rows of a table; the index counts on from epoch to epoch, for those that augment."""

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        self.features, self.targets = features, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = index % len(self)
        return {"features": self.features[row], "target": self.targets[row], "subject": str(row)}


def build(config: Config, device: torch.device) -> engine.Experiment:
    """Return the experiment of a configuration."""
    bunch = load_diabetes()
    features, targets = (torch.tensor(part).float() for part in (bunch.data, bunch.target))
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    train, validation, test = order.split([300, 42, 100])
    shift, scale = targets[train].mean(), targets[train].std()  # of the training rows alone
    targets = (targets - shift) / scale
    spread = features[train].std(0)

    def table(rows: Tensor) -> Table:
        return Table(features[rows] / spread, targets[rows, None])

    network = nn.Sequential(nn.Linear(10, config.hidden), nn.Tanh(), nn.Linear(config.hidden, 1))
    terms = config.penalty.build(network, nn.MSELoss(), seed=config.seed)
    return engine.Experiment(
        objective=objectives.Objective(terms, inputs="features", targets="target"),
        optimizer=config.optimizer.build(),
        schedule=config.schedule.build(config.training.epochs),
        train=table(train),
        validation=table(validation),
        score=score,
        key_metric=KEY_METRIC,
        data_hash="scikit-learn diabetes",
        tests={"test": table(test)},
        scores=[f"test/{KEY_METRIC}"],
    )


def score(outputs: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row a patient; the squared error is in units of the targets' variance."""
    errors = (outputs - batch["target"]).square().flatten().tolist()
    return [
        {"subject": subject, KEY_METRIC: -error}
        for subject, error in zip(batch["subject"], errors, strict=True)
    ]
