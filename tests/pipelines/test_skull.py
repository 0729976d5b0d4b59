from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY
from torch.utils.data import default_collate

from famseg.config import load
from famseg.engine import Experiment, Processes
from famseg.messages import InputError

CPU = torch.device("cpu")


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAMSEG_CACHE", str(tmp_path / "cache"))

    def make(*overrides: str) -> Experiment:
        pipeline, config = load("skull", [*TINY, *overrides])
        torch.manual_seed(config.seed)
        return pipeline.build(config, CPU)

    return make


def test_a_hole_is_in_the_input_and_the_truth_is_complete(build) -> None:
    item = build().train[0]
    image, label, region = (item[key] > 0 for key in ("image", "label", "region"))
    assert torch.equal(image, label & ~region)
    assert int((label & region).sum()) > 0


def test_training_holes_change_with_the_epoch_and_evaluation_holes_do_not(build) -> None:
    experiment = build()
    n = len(experiment.train)
    assert not torch.equal(experiment.train[0]["image"], experiment.train[n]["image"])
    assert torch.equal(experiment.train[0]["label"], experiment.train[n]["label"])
    assert torch.equal(experiment.validation[0]["image"], build().validation[0]["image"])


def test_the_penalty_reaches_the_layers_before_and_behind_its_own(build) -> None:
    objective = build("lambda=1", "penalty.bound=none").objective
    terms = objective(default_collate([build().train[i] for i in range(2)]))
    model = objective.model
    weights = [
        model.encode[0].conv.weight,
        model.latent.weight,
        model.expand.weight,
        model.decode[0].conv.conv.weight,
    ]
    gradients = torch.autograd.grad(terms.total - terms.loss, weights)
    assert all(float(gradient.norm()) > 0 for gradient in gradients)


def test_the_validation_loss_is_that_of_the_training_without_its_penalty(build) -> None:
    experiment = build("lambda=0.5")
    batch = default_collate([experiment.train[i] for i in range(2)])
    model = experiment.objective.model.eval()
    with torch.no_grad():
        rows = experiment.score(model(batch["image"]), batch)
    terms = experiment.objective.eval()(batch)
    assert sum(row["loss"] for row in rows) / 2 == pytest.approx(terms.loss.item(), rel=1e-5)


def test_lambda_weighs_the_penalty(build) -> None:
    batch = default_collate([build().train[i] for i in range(2)])
    terms = build("lambda=0.5").objective(batch)
    torch.testing.assert_close(terms.total, terms.loss + 0.5 * terms.penalty)
    assert build("lambda=0").objective(batch).penalty is None


def test_the_data_hash_tells_data_apart(build) -> None:
    assert build().data_hash == build("training.epochs=2").data_hash
    assert build().data_hash == build("seed=1").data_hash
    assert build().data_hash != build("data.seed=1").data_hash
    assert build().data_hash != build("data.spacing_mm=15").data_hash


def test_the_evaluation_scores_both_sets_beside_the_mean_skull(build, tmp_path: Path) -> None:
    experiment = build()
    summary = experiment.evaluate(
        experiment.objective.model, tmp_path / "evaluation", processes=Processes()
    )
    for name in ("set1", "set2"):
        for region in ("skull", "implant"):
            assert summary[name][region]["dsc"]["n"] == 2
            assert 0 < summary[name]["mean_skull"][region]["dsc"]["mean"] <= 1
        assert summary[name]["variance_ratio"] is not None
    metrics = experiment.test_metrics(summary)
    assert metrics["test/set1/skull/dsc"] == summary["set1"]["skull"]["dsc"]["mean"]
    assert {path.name for path in (tmp_path / "evaluation").iterdir()} == {
        "cases.csv",
        "summary.json",
        "slices.png",
        "slices.svg",
        "shown",
    }


def test_completed_skulls_are_saved_on_request(build, tmp_path: Path) -> None:
    experiment = build()
    model, folder = experiment.objective.model, tmp_path / "evaluation"
    experiment.evaluate(model, folder, processes=Processes(), save="all")
    saved = sorted((tmp_path / "evaluation" / "predictions").rglob("*.nii.gz"))
    assert [path.parent.name for path in saved] == ["set1", "set1", "set2", "set2"]


def test_a_split_without_subjects_is_refused(build) -> None:
    with pytest.raises(InputError, match="no subject is left to the split validation"):
        build("data.validation=0")


def test_the_image_is_rgb(build) -> None:
    experiment = build()
    assert experiment.image is not None
    drawn = experiment.image(experiment.objective.model)
    assert drawn.ndim == 3
    assert drawn.shape[2] == 3
    assert drawn.dtype == np.uint8


@pytest.mark.slow
def test_real_volumes_make_an_experiment(build, real_data: Path) -> None:
    root = real_data / "skulls" / "truncated64"
    small = ["model.channels=[4,4]", "model.strides=[4,4]"]
    pipeline, config = load("skull_folder", [f"data.root={root}", *small])
    experiment = pipeline.build(config, CPU)
    assert len(experiment.train) == 33
    assert len(experiment.validation) == 5
    item = experiment.train[0]
    assert item["image"].shape == (1, 64, 64, 64)
    assert item["spacing_mm"].tolist() == pytest.approx([3.5, 3.5, 3.5])


def test_a_root_turns_a_configuration_of_phantoms_into_one_of_own_volumes() -> None:
    _, config = load("smoke/skull", ["data.root=somewhere"])
    assert (config.data.kind, config.data.root, config.data.size) == ("folder", "somewhere", 32)
