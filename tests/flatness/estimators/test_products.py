from __future__ import annotations

import pytest
import torch
from torch import nn

from famseg.flatness import FAM

LAYERS = ["0", "2", "4"]  # the body's, one in the middle, the head; d > m and d < m


def smooth(z, y):
    return (z.sin() * (y[:, None] + 1)).mean()  # not convex: kappa of any sign


def objective(model, layer, loss, estimator, **options):
    fixed = {"weight": 1, "bound": "none", "every": 1, "samples": "all"}
    return FAM(model, layer=layer, loss=loss, estimator=estimator, **(fixed | options))


@pytest.mark.parametrize("layer", LAYERS)
def test_gradcheck(net, batch, layer):
    fam = objective(net, layer, smooth, "columns")
    names, parameters = zip(*net.named_parameters(), strict=True)

    def penalty(*values):
        arguments = {f"model.{n}": v for n, v in zip(names, values, strict=True)}
        return torch.func.functional_call(fam, arguments, batch).penalty

    assert torch.autograd.gradcheck(penalty, parameters)


def test_samples_values_are_those_of_batches_of_one(net, batch):
    fam = objective(net, "2", smooth, "columns")
    together = fam.measure(*batch).per_sample
    alone = [fam.measure(x[None], y[None]).kappa for x, y in zip(*batch, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("estimator", ["exact", "hutchinson"])
def test_positions_of_a_sample_interact(oracle, estimator):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(3, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.head(self.layer(x).tanh().square().mean(1))

    model = Pooled().double()
    inputs, targets = torch.randn(4, 5, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    loss = nn.CrossEntropyLoss()
    options = {"probe_per": "batch", "probes": 1000} if estimator == "hutchinson" else {}
    fam = objective(model, "layer", loss, estimator, **options)
    wanted = oracle(model, "layer", loss, inputs, targets)
    tolerance = 1e-5 if estimator == "exact" else 0.15
    assert fam.measure(inputs, targets).kappa.item() == pytest.approx(wanted, rel=tolerance)


@pytest.mark.parametrize("estimator", ["exact", "hutchinson"])
def test_samples_may_interact(net, batch, oracle, estimator):
    def loss(z, y):
        return (z * (y[:, None] - 1)).sum().square() / 50 + z.square().mean()

    options = {"probe_per": "batch", "probes": 1000} if estimator == "hutchinson" else {}
    found = objective(net, "2", loss, estimator, **options).measure(*batch).kappa
    tolerance = 1e-5 if estimator == "exact" else 0.15
    assert found.item() == pytest.approx(oracle(net, "2", loss, *batch), rel=tolerance)


def test_dead_features_have_no_flatness_and_no_nan(net, batch):
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.zero_()
    terms = objective(net, "2", nn.CrossEntropyLoss(), "columns")(*batch)
    assert terms.penalty.item() == 0
    terms.total.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_a_piecewise_linear_loss_has_no_curvature(batch):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    terms = objective(model, "0", lambda z, y: z.abs().mean(), "columns")(*batch)
    assert terms.penalty.item() == 0
    terms.total.backward()
