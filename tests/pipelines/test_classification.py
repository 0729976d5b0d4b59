from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from famseg.config import load
from famseg.engine import Experiment, Processes
from famseg.flatness import FAM, cross_entropy_flatness
from famseg.messages import InputError
from famseg.objectives import LayerDecay, PlainLoss

SMALL = [
    "data={kind: synthetic, like: cifar10, train: 200, test: 40}",
    "model={kind: convnet, width: 4, features: 8}",
]
CPU = torch.device("cpu")


def build(name: str, *overrides: str) -> Experiment:
    pipeline, config = load(name, [*SMALL, *overrides])
    torch.manual_seed(config.seed)
    experiment: Experiment = pipeline.build(config, CPU)
    return experiment


def batch_of(experiment: Experiment, *, epoch: int = 0, samples: int = 16) -> dict[str, Any]:
    """Return a training batch as the engine makes it."""
    n = len(experiment.train)
    batch = experiment.train.__getitems__([epoch * n + sample for sample in range(samples)])
    changed: dict[str, Any] = experiment.augment(dict(experiment.collate(batch)))
    return changed


@pytest.fixture(scope="module")
def fam() -> Experiment:
    return build("classification/cifar10_fam")


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("baseline", PlainLoss),
        ("sam", PlainLoss),
        ("asam", PlainLoss),
        ("label_smoothing", PlainLoss),
        ("head_decay", LayerDecay),
        ("fam", FAM),
        ("fam_sam", FAM),
    ],
)
def test_every_method_minimizes_what_its_name_says(method, terms) -> None:
    pipeline, config = load(f"classification/cifar10_{method}", SMALL)
    assert (config.sam is not None) == ("sam" in method)
    if config.sam is not None:
        assert config.sam.adaptive == (method == "asam")
    objective = pipeline.build(config, CPU).objective
    assert type(objective.terms) is terms
    smoothing = 0.1 if method == "label_smoothing" else 0.0
    assert objective.terms.loss.label_smoothing == smoothing


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "svhn", "fashionmnist"])
@pytest.mark.parametrize("method", ["baseline", "sam", "fam"])
def test_the_settings_of_the_paper(data, method) -> None:
    _, config = load(f"classification/{data}_{method}")
    optimizer, training = config.optimizer, config.training
    assert (optimizer.learning_rate, training.batch_size, training.epochs) == {
        "cifar10": (0.03, 64, 250),
        "cifar100": (1e-5, 32, 100),
        "svhn": (0.1, 128, 100),
        "fashionmnist": (0.01, 64, 200),
    }[data]
    network = {"cifar10": "resnet18", "cifar100": "efficientnet"}.get(data, "wide_resnet")
    assert config.model.kind == network
    if network == "wide_resnet":
        assert (config.model.depth, config.model.width) == (28, 10)
        assert optimizer.nesterov
        assert (optimizer.weight_decay, config.augment.cutout) == (5e-4, 16)
    weight = {"cifar100": 1.0}.get(data, 0.1) if method == "fam" else 0.0
    assert config.penalty.weight == weight
    assert (config.sam.rho if config.sam else None) == (0.05 if method == "sam" else None)


def test_the_penalty_is_the_exact_flatness_of_the_head(fam) -> None:
    batch, model = batch_of(fam), fam.objective.model
    terms = fam.objective(batch)
    torch.testing.assert_close(terms.total, terms.loss + 0.1 * terms.penalty)
    features = model.features(model.body(batch["image"]))
    logits = model.head(features)
    exact = cross_entropy_flatness(features, logits, batch["label"], model.head.weight).mean()
    torch.testing.assert_close(terms.penalty, exact / model.head.in_features)
    # Its gradient reaches the first layer of the network.
    first = next(model.body.parameters())
    (gradient,) = torch.autograd.grad(terms.total - terms.loss, first)
    assert float(gradient.norm()) > 0


def test_training_images_change_with_the_epoch_and_evaluation_ones_do_not(fam) -> None:
    first, second = batch_of(fam), batch_of(fam, epoch=1)
    assert first["image"].dtype == torch.float32
    assert not torch.equal(first["image"], second["image"])
    assert torch.equal(first["image"], batch_of(fam)["image"])
    assert torch.equal(first["label"], second["label"])
    again = build("classification/cifar10_baseline", "seed=1")
    assert not torch.equal(first["image"], batch_of(again)["image"])
    for one, other in (
        (fam.validation, again.validation),
        (fam.tests["test"], again.tests["test"]),
    ):
        assert torch.equal(one[3]["image"], other[3]["image"])


def test_the_data_hash_tells_data_apart(fam) -> None:
    assert fam.data_hash == build("classification/cifar10_baseline", "seed=1").data_hash
    assert fam.data_hash != build("classification/cifar10_baseline", "data.seed=1").data_hash


def test_the_evaluation_compares_train_and_test(fam, tmp_path: Path) -> None:
    model, folder = fam.objective.model, tmp_path / "evaluation"
    summary = fam.evaluate(model, folder, processes=Processes())
    assert (summary["test"]["n"], summary["train"]["n"]) == (40, len(fam.train))
    assert list(summary["test"]["per_class"]) == [f"pattern_{number}" for number in range(10)]
    assert summary["majority"]["accuracy"] == 0.1
    assert {path.name for path in folder.iterdir()} == {
        "cases.csv",
        "summary.json",
        "classification.png",
        "classification.svg",
    }
    assert json.loads((folder / "summary.json").read_text()) == summary
    metrics = fam.test_metrics(summary)
    assert set(metrics) >= set(fam.scores)
    assert "accuracy" in fam.table(summary)
    assert any(sign.startswith(("no better than", "collapse")) for sign in fam.signs([], summary))


def test_flatness_is_measured_without_a_penalty_too(fam) -> None:
    baseline = build("classification/cifar10_baseline")
    assert baseline.monitor is not None
    found = baseline.monitor(baseline.objective.model)
    assert set(found) == {"train/kappa", "train/head_norm_squared"}
    assert found["train/kappa"] > 0
    # The same weights: the same flatness, whatever the objective.
    fam.objective.model.load_state_dict(baseline.objective.model.state_dict())
    assert fam.monitor(fam.objective.model) == found


def test_the_image_is_rgb(fam) -> None:
    assert fam.image is not None
    drawn = fam.image(fam.objective.model)
    assert drawn.shape[2] == 3
    assert drawn.dtype == np.uint8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.validation=0", r"data\.validation: no image is left to choose the best epoch"),
        ("loss.class_weights=[1, 2]", r"loss\.class_weights: 2 weights for 10 classes"),
        ("penalty={kind: weight_decay, layer: haed, lambda: 1}", r"penalty\.layer: .*'haed'"),
    ],
)
def test_what_does_not_fit_is_refused(override, message) -> None:
    with pytest.raises(InputError, match=message):
        build("classification/cifar10_baseline", override)


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "svhn"])
def test_a_root_puts_real_images_in_the_place_of_embedded_ones(real_data: Path, data) -> None:
    root = real_data / "vision" / data
    pipeline, config = load(f"smoke/{data}_fam", [f"data.root={root}"])
    assert config.data.kind == data
    experiment = pipeline.build(config, CPU)
    n = len(experiment.train) + len(experiment.validation)
    assert (n, len(experiment.tests["test"])) == (400, 200)
    terms = experiment.objective(batch_of(experiment))
    assert terms.penalty.item() > 0
