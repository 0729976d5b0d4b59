from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from famseg.flatness import LayerError, LossError, relative_flatness


def loss_of(net, layer):
    inputs = torch.randn(3, 4, dtype=torch.float64)
    targets = torch.randn(3, 3, dtype=torch.float64)
    weight = net.get_submodule(layer).weight.detach().clone().requires_grad_()

    def loss(w):
        return nn.functional.mse_loss(
            functional_call(net, {f"{layer}.weight": w}, (inputs,)), targets
        )

    return loss, weight, inputs, targets


def test_of_a_quadratic_is_the_sum_over_rows_by_hand():
    w = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    # H = 2 I: twice the squared norm of each row, times the trace of a block of two.
    assert relative_flatness(lambda v: v.square().sum(), w).item() == pytest.approx(24)


def test_rows_that_interact_count_with_their_product():
    w = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    # L = v00 v10: only H_01 and H_10 are nonzero, with trace 1 each: 2 <w_0, w_1> = 2 * 11.
    assert relative_flatness(lambda v: v[0, 0] * v[1, 0], w).item() == pytest.approx(22)


@pytest.mark.parametrize("layer", ["0", "2", "4"])
def test_value_is_that_of_differences_of_the_loss(net, layer, oracle):
    loss, weight, inputs, targets = loss_of(net, layer)
    wanted = oracle(net, layer, nn.MSELoss(), inputs, targets)
    assert relative_flatness(loss, weight).item() == pytest.approx(wanted, rel=1e-6)


def test_gradient_flows_through_the_curvature(net):
    loss, weight, *_ = loss_of(net, "2")
    assert torch.autograd.gradcheck(lambda w: relative_flatness(loss, w), (weight,), fast_mode=True)


def test_gradient_reaches_other_parameters(net, check_gradient):
    loss, weight, *_ = loss_of(net, "2")
    check_gradient(lambda: relative_flatness(loss, weight), net)


def test_of_a_linear_loss_and_of_a_constant_is_zero():
    w = torch.ones(2, 3)
    assert relative_flatness(torch.sum, w).item() == 0
    assert relative_flatness(lambda v: torch.tensor(1.0), w).item() == 0


def test_works_where_gradients_are_off():
    with torch.no_grad():
        assert relative_flatness(lambda v: v.square().sum() / 2, torch.ones(1, 1)).item() == 1


def test_a_kernel_is_refused_with_advice():
    with pytest.raises(LayerError, match=r"got \(2, 1, 3, 3\)\. Flatten a convolution kernel"):
        relative_flatness(torch.sum, torch.ones(2, 1, 3, 3))


def test_whole_numbers_are_refused():
    with pytest.raises(LayerError, match=r"floating-point numbers, got torch\.int64"):
        relative_flatness(torch.sum, torch.ones(2, 1, dtype=torch.int64))


def test_a_loss_per_sample_is_refused():
    with pytest.raises(LossError, match=r"must return a scalar, got shape \(2,\)"):
        relative_flatness(lambda v: v.sum(1), torch.ones(2, 1))
