from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import nn

from famseg.flatness import FAM
from famseg.flatness._estimators import columns, sample_probes
from famseg.flatness._pass import forward_pass

LAYERS = ["0", "2", "4"]  # the body's, one in the middle, the head; d > m and d < m
LOSSES = {
    "cross entropy": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "smooth": lambda z, y: (z.sin() * (y[:, None] + 1)).mean(),  # not convex: kappa of any sign
}


def objective(model, layer, loss, estimator, **options):
    return FAM(
        model, layer=layer, loss=loss, weight=1, estimator=estimator, bound="none", **options
    )


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("estimator", ["columns", "exact"])
def test_exact_values_are_those_of_differences_of_the_loss(
    net, batch, oracle, estimator, layer, loss
):
    found = objective(net, layer, loss, estimator)(*batch).penalty
    assert found.item() == pytest.approx(oracle(net, layer, loss, *batch), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("estimator", "per"),
    [("columns", "sample"), ("exact", "sample"), ("hutchinson", "sample"), ("hutchinson", "batch")],
)
def test_gradient_in_every_parameter_is_that_of_the_value(
    net, batch, check_gradient, estimator, per, layer
):
    fam = objective(net, layer, LOSSES["smooth"], estimator, probe_per=per, probes=1)

    def value():
        fam.seek(0)  # the same probes every time
        return fam(*batch).penalty

    check_gradient(value, net)


@pytest.mark.parametrize("layer", LAYERS)
def test_gradcheck(net, batch, layer):
    fam = objective(net, layer, LOSSES["smooth"], "columns")
    names, parameters = zip(*net.named_parameters(), strict=True)

    def penalty(*values):
        arguments = {f"model.{n}": v for n, v in zip(names, values, strict=True)}
        return torch.func.functional_call(fam, arguments, batch).penalty

    assert torch.autograd.gradcheck(penalty, parameters)


@pytest.mark.slow
@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize("probes", [1, 3])
def test_probes_are_unbiased_with_the_variance_of_hutchinson(net, batch, per, probes):
    loss = LOSSES["smooth"]
    exact = objective(net, "2", loss, "columns").measure(*batch)
    fam = objective(net, "2", loss, "hutchinson", probe_per=per, probes=probes)
    draws = []
    for step in range(400):
        fam.seek(step)
        draws.append(fam.measure(*batch).kappa)
    draws = torch.stack(draws)
    error = (draws.mean() - exact.kappa) / (draws.std() / len(draws) ** 0.5)
    assert abs(error) < 3.5
    if per == "sample":
        wanted = rademacher_variance(net, loss, *batch) / probes
        # The variance of 400 draws is itself known to about a tenth.
        assert draws.var().item() == pytest.approx(wanted, rel=0.3)


def rademacher_variance(net, loss, inputs, targets):
    """Var(xi' A xi) = 2 (|A|^2 - |diag A|^2) for signs; samples are independent."""
    features = net[:2](inputs)
    weight = net[2].weight
    total = 0.0
    for phi, y in zip(features, targets, strict=True):
        tail = functools.partial(lambda z, y: loss(net[3:](z[None]), y[None]), y=y)
        hessian = torch.autograd.functional.hessian(tail, net[2](phi).detach())
        a = phi.square().sum() * weight.T @ hessian @ weight
        total += 2 * (a.square().sum() - a.diagonal().square().sum()).item()
    return total / len(inputs) ** 2


@pytest.mark.parametrize("layer", ["0", "2"])
def test_all_sign_vectors_together_give_the_exact_value(net, batch, layer):
    run = forward_pass(net, net.get_submodule(layer), layer, LOSSES["smooth"], *batch, check=True)
    m = run.weight.shape[1]
    every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=m)), dtype=torch.float64)

    def draw(shape, like):
        assert shape == (len(every), 5, m)
        return every[:, None, :].expand(shape)

    found = sample_probes(run, draw, probes=len(every))
    torch.testing.assert_close(found, columns(run))


def test_samples_values_are_those_of_batches_of_one(net, batch):
    fam = objective(net, "2", LOSSES["smooth"], "columns")
    together = fam.measure(*batch).per_sample
    alone = [fam.measure(x[None], y[None]).kappa for x, y in zip(*batch, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("estimator", ["columns", "hutchinson", "exact", "closed_form"])
def test_rescaling_neighbouring_layers_changes_nothing(estimator):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    inputs, targets = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    fam = objective(model, "2", nn.CrossEntropyLoss(), estimator)
    before = fam.measure(inputs, targets).kappa
    with torch.no_grad():
        model[0].weight *= 7
        model[0].bias *= 7
        model[2].weight /= 7
    assert fam.measure(inputs, targets).kappa.item() == pytest.approx(before.item(), rel=1e-12)


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
