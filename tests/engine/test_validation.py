from __future__ import annotations

import math
import statistics

import pytest
import torch
from toy import CPU, changed, make_experiment

from famseg.engine import Processes
from famseg.engine._validation import Validator


def test_every_case_is_scored_once_with_mean_spread_and_count() -> None:
    experiment = make_experiment()
    model = experiment.objective.model.train()
    validate = Validator(experiment, model, processes=Processes(), device=CPU, batch_size=2)
    metrics = validate()
    values = []
    model.eval()
    for index in range(3):
        item = experiment.validation[index]
        with torch.no_grad():
            output = model(item["image"][None])
        batch = {"label": item["label"][None], "subject": [item["subject"]]}
        values.append(experiment.score(output, batch)[0]["dsc"])
    assert metrics["val/dsc"] == pytest.approx(statistics.fmean(values))
    assert metrics["val/dsc_std"] == pytest.approx(statistics.pstdev(values), abs=1e-7)
    assert metrics["val/n"] == 3


def test_the_mode_of_the_network_is_restored() -> None:
    experiment = make_experiment()
    model = experiment.objective.model.train()
    Validator(experiment, model, processes=Processes(), device=CPU, batch_size=2)()
    assert model.training


def test_a_score_that_is_not_finite_ends_no_training() -> None:
    toy = make_experiment()

    def score(outputs, batch):
        return [{**row, "loss": math.inf} for row in toy.score(outputs, batch)]

    experiment = changed(toy, score=score)
    model = experiment.objective.model
    metrics = Validator(experiment, model, processes=Processes(), device=CPU, batch_size=2)()
    assert math.isnan(metrics["val/loss"])
    assert math.isnan(metrics["val/loss_std"])
    assert math.isfinite(metrics["val/dsc"])
