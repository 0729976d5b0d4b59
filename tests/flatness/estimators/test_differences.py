"""Finite differences and noise: what holds of them beyond the contract of all estimators."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from famseg.flatness import FAM, FlatnessError, NotApplicableError, UnsupportedTailError


def smooth(z, y):
    return (z.sin() * (1.5 * y.reshape(-1, *[1] * (z.ndim - 1)) - 1)).mean()


INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.tensor([0, 2, 1, 1, 0, 2])


def objective(model, estimator, **options):
    fixed = {"layer": "2", "loss": smooth, "weight": 0.5, "bound": "none", "every": 1}
    return FAM(model, estimator=estimator, **(fixed | options))


class Skip(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        body = self.model[:2](x)
        return self.model[2:](body) * body[:, :3].cos()


@pytest.mark.parametrize("samples", ["all", 2])
@pytest.mark.parametrize("layer", ["2", ["0", "2"], ["2", "0"]])
def test_differences_agree_with_derivatives_for_the_same_probes(net, layer, samples):
    found, wanted = (
        objective(net, e, layer=layer, samples=samples)(INPUTS, TARGETS).penalty
        for e in ("finite_difference", "hutchinson")
    )
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    parameters = list(net.parameters())
    for f, w in zip(*(torch.autograd.grad(p, parameters) for p in (found, wanted)), strict=True):
        torch.testing.assert_close(f, w, rtol=1e-5, atol=1e-8)


def test_differences_go_around_with_a_skip_connection(net, check_gradient):
    model = Skip(net)
    fam = objective(model, "finite_difference", layer="model.2")
    assert fam(INPUTS, TARGETS).penalty is not None
    fam.seek(0)
    twin = objective(model, "hutchinson", layer="model.2", samples="all")
    found, wanted = fam(INPUTS, TARGETS).penalty, twin(INPUTS, TARGETS).penalty
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)

    def value():
        fam.seek(0)
        return fam(INPUTS, TARGETS).penalty

    # The basis that probes are drawn in does not turn here: as many neurons as features.
    model.model[2] = nn.Linear(6, 6).double()
    model.model[4] = nn.Linear(6, 3).double()
    check_gradient(value, model, rel=1e-4)


def test_differences_keep_the_masks_of_dropout_behind_the_layer(net):
    model = nn.Sequential(*net[:4], nn.Dropout(0.4), net[4])
    found, wanted = (
        objective(model, e, samples="all") for e in ("finite_difference", "hutchinson")
    )
    for fam in (found, wanted):
        torch.manual_seed(7)
        fam.value = fam(INPUTS, TARGETS)
    torch.testing.assert_close(found.value.loss, wanted.value.loss)
    torch.testing.assert_close(found.value.penalty, wanted.value.penalty, rtol=1e-6, atol=1e-9)


class Hinge(nn.Module):
    """A loss that torch differentiates once: multi margin, on top of a smooth function."""

    def forward(self, z, y):
        return F.multi_margin_loss(z.square(), y)


def test_differences_measure_what_cannot_be_differentiated_twice(net, oracle):
    fam = objective(net, "finite_difference", loss=Hinge(), probes=600)
    found = fam.measure(INPUTS, TARGETS)
    wanted = oracle(net, "2", Hinge(), INPUTS, TARGETS)
    assert abs(found.kappa.item() - wanted) < 3.7 * found.standard_error.item()


def test_differences_do_not_train_through_it(net):
    with pytest.raises(UnsupportedTailError, match=r"can only be measured here\..*\"noise\""):
        objective(net, "finite_difference", loss=Hinge())(INPUTS, TARGETS)


def test_noise_trains_through_what_is_differentiated_once(net):
    terms = objective(net, "noise", loss=Hinge())(INPUTS, TARGETS)
    terms.total.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def kinked(dtype):
    torch.manual_seed(0)
    layers = nn.Linear(4, 8), nn.Linear(8, 64), nn.PReLU(), nn.Linear(64, 64), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(64, 3)).to(dtype)


def test_differences_over_kinks_are_refused_in_single_precision():
    fam = objective(kinked(torch.float32), "finite_difference", layer="1")
    with pytest.raises(NotApplicableError, match=r"half the step changes it by \d+%.*float64"):
        fam.measure(INPUTS.float(), TARGETS)


def test_differences_over_kinks_are_right_in_double_precision():
    model = kinked(torch.float64)
    found, wanted = (
        objective(model, e, layer="1", probes=5).measure(INPUTS, TARGETS).kappa
        for e in ("finite_difference", "hutchinson")
    )
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def noise(model, weight, **options):
    return objective(model, "noise", weight=weight, **options)


@pytest.mark.parametrize("layer", ["2", ["0", "2"]])
def test_noise_is_measured_from_losses_alone(net, oracle, layer):
    found = noise(net, 1e-4, layer=layer, probes=400).measure(INPUTS, TARGETS)
    names = [layer] if isinstance(layer, str) else layer
    wanted = sum(oracle(net, name, smooth, INPUTS, TARGETS) for name in names)
    assert abs(found.kappa.item() - wanted) < 3.7 * found.standard_error.item()


def test_the_bias_of_noise_is_of_the_order_of_its_square(net):
    """The same probes at three sizes: the difference to the smallest grows as s^2."""
    values = [
        noise(net, weight, probes=50).measure(INPUTS, TARGETS).kappa.item()
        for weight in (1e-6, 1e-3, 4e-3)
    ]
    ratio = (values[2] - values[0]) / (values[1] - values[0])
    assert ratio == pytest.approx(4, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("antithetic", [True, False])
def test_the_expected_gradient_of_noise_is_that_of_the_penalty(net, antithetic):
    weight = 2e-3
    parameters = list(net.parameters())
    exact = objective(net, "columns", weight=weight, samples="all")(INPUTS, TARGETS).total
    wanted = torch.autograd.grad(exact, parameters)
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator).to(p) for p in parameters]

    def along(gradient):
        return sum((g * v).sum().item() for g, v in zip(gradient, direction, strict=True))

    fam = noise(net, weight, antithetic=antithetic)
    found = torch.tensor(
        [
            along(torch.autograd.grad(fam(INPUTS, TARGETS).total, parameters))
            for _ in range(600 if antithetic else 2000)
        ]
    )
    error = found.mean().item() - along(wanted)
    assert abs(error) < 3.7 * found.std().item() / math.sqrt(len(found))
    plain = along(torch.autograd.grad(smooth(net(INPUTS), TARGETS), parameters))
    if antithetic:  # and it is no accident: the plain gradient lies outside
        assert abs(found.mean().item() - plain) > 3.7 * found.std().item() / math.sqrt(len(found))


def test_a_noisy_step_has_no_penalty_and_is_a_function_of_its_position(net):
    fam = noise(net, 0.1)
    first = [fam(INPUTS, TARGETS) for _ in range(3)]
    assert all(t.penalty is None and t.total is t.loss for t in first)
    assert len({t.total.item() for t in first}) == 3
    fam.seek(1)
    assert fam(INPUTS, TARGETS).total == first[1].total


def test_noise_each_third_step_is_three_times_as_strong(net):
    fam = noise(net, 0.01, every=3)
    plain = smooth(net(INPUTS), TARGETS)
    totals = [fam(INPUTS, TARGETS).total for _ in range(3)]
    assert totals[1] == totals[2] == plain
    assert totals[0] == noise(net, 0.03)(INPUTS, TARGETS).total != plain


def test_antithetic_noise_goes_both_ways(net):
    both = noise(net, 1e-6, antithetic=True)(INPUTS, TARGETS).total
    one = noise(net, 1e-6)(INPUTS, TARGETS).total
    plain = smooth(net(INPUTS), TARGETS)
    assert abs(both - plain) < 0.05 * abs(one - plain)  # the first order cancels


def test_noise_keeps_the_callers_precision_and_random_state():
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3))
    fam = FAM(model, layer="2", loss=nn.CrossEntropyLoss(), weight=0.1, estimator="noise")
    inputs = INPUTS.float()
    torch.manual_seed(2)
    model(inputs)
    wanted = torch.get_rng_state()
    seen = []
    model[2].register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16):
        fam(inputs, TARGETS).total.backward()
    assert seen[-1] == torch.bfloat16
    assert torch.equal(torch.get_rng_state(), wanted)


@pytest.mark.parametrize("layer", ["0", "2"])
def test_differences_settle_under_mixed_precision(net, layer):
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = (
            objective(net.float(), e, layer=layer, samples="all")(INPUTS.float(), TARGETS).penalty
            for e in ("finite_difference", "hutchinson")
        )
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def test_noise_needs_a_weight_to_measure(net):
    with pytest.raises(FlatnessError, match="needs a weight above 0: it compares the loss"):
        noise(net, 0).measure(INPUTS, TARGETS)


def test_noise_has_no_part(net):
    with pytest.raises(NotApplicableError, match="a part of the batch would save nothing"):
        noise(net, 0.1, samples=2)(INPUTS, TARGETS)
