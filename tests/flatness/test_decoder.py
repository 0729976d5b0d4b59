"""The penalty on the skull autoencoder: strided decoder, GroupNorm(C, C), PReLU, Dice."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.losses import DiceLoss
from torch.func import functional_call

from famseg.flatness import FAM, SampleInteractionError
from famseg.models import ShapeAutoencoder


@pytest.fixture
def network():
    torch.manual_seed(0)
    net = ShapeAutoencoder(size=16, channels=(6, 8, 8), strides=(2, 2, 2), latent=4)
    return net.double()  # expand: 64 x 4


@pytest.fixture
def volumes():
    whole = (torch.rand(3, 1, 16, 16, 16, dtype=torch.float64) > 0.7).double()
    hole = torch.ones_like(whole)
    hole[..., :6, :6, :6] = 0
    return whole * hole, whole


def objective(network, layer="expand", estimator="columns", loss=None):
    return FAM(
        network,
        layer=layer,
        loss=loss or DiceLoss(sigmoid=True),
        weight=1,
        estimator=estimator,
        bound="none",
        every=1,
        samples="all",
    )


def test_value_is_that_of_differences_of_the_first_derivative(network, volumes):
    # PReLU has kinks: differences of the loss over a finite step see them, differences of the
    # first derivative over a tiny one do not.
    weight = network.expand.weight
    loss = DiceLoss(sigmoid=True)

    def slope(direction, step):
        moved = {"expand.weight": weight + step * direction}
        value = loss(functional_call(network, moved, volumes[:1]), volumes[1])
        (found,) = torch.autograd.grad(value, weight)
        return (found * direction).sum().item()

    wanted = 0.0
    for j, k in itertools.product(range(weight.shape[1]), repeat=2):
        direction = torch.zeros_like(weight)
        direction[:, k] = weight[:, j].detach()
        wanted += (slope(direction, 1e-6) - slope(direction, -1e-6)) / 2e-6
    assert objective(network)(*volumes).penalty.item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("estimator", ["columns", "hutchinson"])
def test_gradient_in_every_parameter(network, volumes, check_gradient, estimator):
    fam = objective(network, estimator=estimator)

    def value():
        fam.seek(0)
        return fam(*volumes).penalty

    # Kappa jumps where an activation crosses its kink: the step is so small that none does.
    check_gradient(value, network, step=1e-7, rel=1e-4)


@pytest.mark.parametrize("layer", ["expand", "latent"])
def test_gradcheck_in_all_parameters_at_once(network, volumes, layer):
    fam = objective(network, layer)
    names, values = zip(*network.named_parameters(), strict=True)

    def penalty(*values):
        arguments = {f"model.{n}": v for n, v in zip(names, values, strict=True)}
        return functional_call(fam, arguments, volumes).penalty

    assert torch.autograd.gradcheck(penalty, values, fast_mode=True)


def test_every_parameter_gets_a_part_of_the_penaltys_gradient(network, volumes):
    penalty = objective(network)(*volumes).penalty
    for name, parameter in network.named_parameters():
        (found,) = torch.autograd.grad(penalty, parameter, retain_graph=True)
        # Normalization takes away a bias right before it; the bias of `expand` moves no curvature
        # through the chosen direction, but it does through the third derivative.
        if not name.endswith("conv.bias"):
            assert found.abs().sum() > 0, name


def test_dice_over_the_batch_is_refused(network, volumes):
    fam = objective(network, loss=DiceLoss(sigmoid=True, batch=True))
    with pytest.raises(SampleInteractionError, match=r"DiceLoss\(batch=True\)"):
        fam(*volumes)


@pytest.mark.slow
def test_gradcheck_on_the_network_of_the_paper():
    torch.manual_seed(0)
    network = ShapeAutoencoder().double()  # 64^3, channels to 128, expand 64 x 8
    whole = torch.zeros(1, 1, 64, 64, 64, dtype=torch.float64)
    whole[..., 12:52, 12:52, 12:52] = 1
    whole[..., 16:48, 16:48, 16:48] = 0
    fam = objective(network, estimator="hutchinson")
    fam.seek(0)
    gradient = torch.autograd.grad(fam(whole, whole).penalty, list(network.parameters()))
    direction = [torch.randn_like(p) * p.std(correction=0) for p in network.parameters()]

    def moved(by):
        with torch.no_grad():
            for p, v in zip(network.parameters(), direction, strict=True):
                p.add_(v, alpha=by)
        fam.seek(0)
        value = fam(whole, whole).penalty.item()
        with torch.no_grad():
            for p, v in zip(network.parameters(), direction, strict=True):
                p.sub_(v, alpha=by)
        return value

    # A million activations: the step must not carry any of them across its kink.
    slopes = [(moved(h) - moved(-h)) / (2 * h) for h in (1e-8, 2e-8)]
    found = sum((g * v).sum().item() for g, v in zip(gradient, direction, strict=True))
    assert found == pytest.approx(sum(slopes) / 2, rel=1e-3)
