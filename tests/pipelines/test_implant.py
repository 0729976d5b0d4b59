from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from famseg.config import load
from famseg.datasets import WHERES
from famseg.engine import Experiment, Processes
from famseg.messages import InputError
from famseg.reconstruction import load_network

CPU = torch.device("cpu")
TINY = [
    "data.subjects=8",
    "data.size=32",
    "data.spacing_mm=7",
    "data.validation=0.2",
    "model.channels=[8,16]",
]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAMSEG_CACHE", str(tmp_path / "cache"))

    def make(*overrides: str) -> Experiment:
        pipeline, config = load("smoke/implant", [*TINY, *overrides])
        torch.manual_seed(config.seed)
        return pipeline.build(config, CPU)

    return make


def batch_of(experiment: Experiment) -> dict:
    return default_collate([experiment.train[i] for i in range(2)])


def test_the_network_learns_the_implant_not_the_skull(build) -> None:
    experiment = build()
    batch = batch_of(experiment)
    terms = experiment.objective(batch)
    other = experiment.objective({**batch, "implant": batch["label"]})
    assert terms.loss.item() != other.loss.item()
    same = experiment.objective({**batch, "label": batch["label"] * 0})
    assert terms.loss.item() == same.loss.item()


def test_validation_rows_count_what_lies_outside_the_skull(build) -> None:
    experiment = build()
    batch = batch_of(experiment)
    sure = 20 * (2 * batch["label"] - 1)  # the whole complete skull: the input counts for nothing
    rows = experiment.score(sure, batch)
    assert [row["dsc"] for row in rows] == [1.0, 1.0]
    assert [row["soft_dsc"] for row in rows] == pytest.approx([1.0, 1.0], abs=1e-4)
    everything = experiment.score(torch.full_like(sure, 20.0), batch)
    free, wanted = (batch["image"] < 0.5).sum((1, 2, 3, 4)), batch["implant"].sum((1, 2, 3, 4))
    expected = (2 * wanted / (free + wanted)).tolist()
    assert [row["dsc"] for row in everything] == pytest.approx(expected, rel=1e-5)
    timid = experiment.score(sure * 0 - 0.1, batch)
    assert [row["dsc"] for row in timid] == [0.0, 0.0]
    assert all(row["soft_dsc"] > 0 for row in timid)


def test_the_validation_loss_is_that_of_the_training_without_its_penalty(build) -> None:
    experiment = build()
    batch = default_collate([experiment.validation[i] for i in range(2)])
    model = experiment.objective.model.eval()
    with torch.no_grad():
        rows = experiment.score(model(batch["image"]), batch)
    terms = experiment.objective.eval()(batch)
    assert sum(row["loss"] for row in rows) / 2 == pytest.approx(terms.loss.item(), rel=1e-5)


def test_the_penalty_reaches_head_and_body(build) -> None:
    objective = build(
        "penalty.kind=relative_flatness",
        "penalty.layer=head",
        "lambda=1",
        "penalty.every=1",
        "penalty.bound=none",
    ).objective
    terms = objective(batch_of(build()))
    weights = [objective.model.head.weight, next(objective.model.body.parameters())]
    gradients = torch.autograd.grad(terms.total - terms.loss, weights)
    assert all(gradient.norm().item() > 0 for gradient in gradients)


def test_phantoms_are_trained_on_beside_the_data_and_are_none_of_it(build) -> None:
    plain, more = build(), build("phantoms=4")
    assert len(more.train) == len(plain.train) + 4
    known = [plain.train[i]["label"] for i in range(len(plain.train))]
    added = [more.train[len(plain.train) + i] for i in range(4)]
    assert all(item["subject"].startswith("extra_phantom_") for item in added)
    assert not any(torch.equal(item["label"], one) for item in added for one in known)


def test_a_training_starts_from_the_weights_of_a_model(build) -> None:
    network = "model.channels=[32,64,96,128]"
    experiment = build(network, "data.size=64", "data.spacing_mm=3.5", "initial=builtin")
    trained = load_network("builtin").model.state_dict()
    own = experiment.objective.model.state_dict()
    assert all(torch.equal(own[name], trained[name]) for name in trained)
    with pytest.raises(InputError, match="initial: builtin has a different network than"):
        build("initial=builtin")


def test_a_split_without_subjects_is_refused(build) -> None:
    with pytest.raises(InputError, match="no subject is left to the split validation"):
        build("data.validation=0")


@pytest.mark.slow
def test_the_evaluation_is_calibrated_unmasked_and_by_class(build, tmp_path: Path) -> None:
    experiment = build()
    folder = tmp_path / "evaluation"
    summary = experiment.evaluate(experiment.objective.model, folder, processes=Processes())
    cases = len(experiment.tests["set1"])
    assert summary["set1"]["implant"]["dsc"]["n"] == cases == 10
    for where in WHERES:
        assert summary[where]["implant"]["dsc"]["n"] == cases / 5
    found = json.loads((folder / "calibration.json").read_text())
    assert found["threshold"] == summary["calibration"]["threshold"]
    assert json.loads((folder / "summary.json").read_text()) == summary
    with (folder / "confidence.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == cases
    # The confidence table scores the same predictions as the evaluation does.
    mean = np.mean([float(row["dsc"]) for row in rows])
    assert mean == pytest.approx(summary["set1"]["implant"]["dsc"]["mean"], abs=1e-6)
    metrics = experiment.test_metrics(summary)
    assert metrics["test/set1/implant/dsc"] == summary["set1"]["implant"]["dsc"]["mean"]
    assert "test/bilateral/implant/hd95_mm" in metrics
    text = experiment.table(summary)
    assert "implant, unmasked" in text
    assert f"calibrated on {len(experiment.validation)} validation cases" in text


def test_an_under_trained_network_is_called_so(build) -> None:
    experiment = build()
    poor = {"calibration": {"threshold": 0.2, "validation_dsc": 0.05, "n": 5}, "set1": {}}
    assert any("under-trained: the best threshold, 0.2" in s for s in experiment.signs([], poor))
    good = {"calibration": {"threshold": 0.5, "validation_dsc": 0.8, "n": 5}, "set1": {}}
    assert not experiment.signs([], good)


def test_the_image_is_rgb(build) -> None:
    experiment = build()
    drawn = experiment.image(experiment.objective.model)
    assert drawn.ndim == 3
    assert drawn.shape[2] == 3
    assert drawn.dtype == np.uint8


@pytest.mark.slow
def test_real_heads_make_an_experiment(build, real_data: Path) -> None:
    root = real_data / "skulls" / "heads128"
    overrides = ["data.size=64", "data.spacing_mm=3.5", "data.test=0.3"]
    pipeline, config = load("implant_folder", [f"data.root={root}", "phantoms=3", *overrides])
    experiment = pipeline.build(config, CPU)
    assert len(experiment.tests["set1"]) >= 10
    item = experiment.train[0]
    assert item["image"].shape == (1, 64, 64, 64)
    assert item["spacing_mm"].tolist() == pytest.approx([3.5, 3.5, 3.5])
