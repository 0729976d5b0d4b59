from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from torch import nn

from famseg.flatness import FAM, FlatnessError
from famseg.flatness._convert import Convention, convert_weight
from famseg.flatness._measurement._robustness import feature_robustness

CONVENTIONS = get_args(Convention)
TERMS = {
    "relative_flatness": {},
    "per_feature": {"normalize": "features"},
    "simplified": {"quantity": "simplified"},
    "simplified_as_released": {"quantity": "simplified", "as_released": True},
}


def penalty(net, batch, **options):
    fam = FAM(net, layer="2", loss=nn.CrossEntropyLoss(), weight=1, estimator="exact", **options)
    return fam.measure(*batch).kappa.item()


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(TERMS, 2)))
def test_terms_are_equal_at_these_weights(net, batch, source, target):
    """Penalties are measured; the authors' norms are those of as_released."""
    ratio = penalty(net, batch) / penalty(net, batch, quantity="simplified")
    found = convert_weight(
        0.3,
        source=source,
        target=target,
        features=6,
        weight_norm=net[2].weight.norm().item(),
        ratio=ratio,
    )
    wanted = 0.3 * penalty(net, batch, **TERMS[source])
    assert found * penalty(net, batch, **TERMS[target]) == pytest.approx(wanted)


def test_ratio_of_squared_error_is_one_over_d(net, batch):
    inputs, targets = batch[0], torch.randn(5, 3, dtype=torch.float64)
    kappa, simplified = (
        FAM(net, layer="4", loss=nn.MSELoss(), weight=1, quantity=quantity)
        .measure(inputs, targets)
        .kappa
        for quantity in ("relative_flatness", "simplified")
    )
    torch.testing.assert_close(kappa / simplified, torch.tensor(1 / 3, dtype=torch.float64))


def test_noise_adds_what_its_lambda_says(net, batch):
    """The loss at W + s W Z, averaged over Z; exact for squared error."""
    inputs, targets = batch[0], torch.randn(5, 3, dtype=torch.float64)
    head = net[4]
    features = net[:4](inputs).detach()
    s = convert_weight(0.02, source="relative_flatness", target="noise")
    z = torch.randn(20000, 5, 5, dtype=torch.float64)
    moved = (features @ (head.weight + s * head.weight @ z).mT) + head.bias
    rises = (moved - targets).square().flatten(1).mean(1) - nn.MSELoss()(net(inputs), targets)
    kappa = FAM(net, layer="4", loss=nn.MSELoss(), weight=1).measure(inputs, targets).kappa
    error = rises.std().item() / 20000**0.5
    assert abs(rises.mean().item() - 0.02 * kappa.item()) < 4 * error
    assert error < 0.05 * 0.02 * kappa.item()


def test_feature_noise_adds_what_its_lambda_says(net, batch):
    delta = convert_weight(0.01, source="relative_flatness", target="feature_noise", features=5)
    targets = torch.randn(5, 3, dtype=torch.float64)
    found = feature_robustness(net, "4", (batch[0], targets), delta, loss=nn.MSELoss(), draws=200)
    assert abs(found.mean - 0.01 * found.kappa) < 4 * found.standard_error
    assert found.standard_error < 0.1 * found.mean


@pytest.mark.parametrize(("source", "target"), list(itertools.product(CONVENTIONS, repeat=2)))
def test_there_and_back(source, target):
    options = {"features": 64, "weight_norm": 4.6, "ratio": 0.016}
    there = convert_weight(0.3, source=source, target=target, **options)
    assert convert_weight(there, source=target, target=source, **options) == pytest.approx(0.3)
    assert convert_weight(0, source=source, target=target, **options) == 0


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_to_itself_it_needs_nothing_and_changes_nothing(convention):
    assert convert_weight(0.1, source=convention, target=convention) == 0.1


@pytest.mark.parametrize(
    ("source", "target", "name"),
    [
        ("per_feature", "relative_flatness", "features"),
        ("noise", "feature_noise", "features"),
        ("simplified", "simplified_as_released", "weight_norm"),
        ("simplified", "noise", "ratio"),
        ("relative_flatness", "simplified", "ratio"),
    ],
)
def test_what_is_missing_is_named(source, target, name):
    with pytest.raises(
        FlatnessError, match=f"from '{source}' to '{target}' convert_weight needs {name}"
    ):
        convert_weight(0.1, source=source, target=target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": -1.0}, "value must be a finite number of at least 0, got -1.0"),
        ({"value": float("nan")}, "value must be a finite number of at least 0, got nan"),
        ({"features": 0}, "features must be a whole number"),
        ({"ratio": -0.1}, "ratio must be a finite number above 0, got -0.1"),
        ({"weight_norm": 0.0}, "weight_norm must be a finite number above 0, got 0.0"),
        ({"source": "kappa"}, "source must be one of 'relative_flatness', .*, got 'kappa'"),
        ({"target": "kappa"}, "target must be one of 'relative_flatness', .*, got 'kappa'"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    arguments = {"value": 0.1, "source": "noise", "target": "simplified", **options}
    with pytest.raises(FlatnessError, match=message):
        convert_weight(**arguments)
