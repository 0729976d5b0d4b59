from __future__ import annotations

import pytest
import torch
from torch import nn

from famseg.flatness._estimators._factor import factor
from famseg.flatness._tracing._operator import Operator


def of(layer, shape, **options):
    layer.double()
    features = torch.randn(shape, dtype=torch.float64)
    operator = Operator(layer, features, layer(features))
    return factor(layer.weight, operator, **({"quantity": "relative_flatness"} | options))


WIDE = {"linear": (nn.Linear(7, 3), (2, 7)), "grouped": (nn.Conv1d(4, 4, 4, groups=2), (2, 4, 5))}


@pytest.mark.parametrize(("layer", "shape"), WIDE.values(), ids=WIDE)
def test_the_reduced_factor_has_the_same_gram_matrix_and_its_derivative(layer, shape):
    found = of(layer, shape)
    groups, d, m = found.shape
    assert m > d
    assert found.reduced.shape == (groups, d, d)
    reduced = found.reduced @ found.reduced.mT
    torch.testing.assert_close(reduced, found.gram)
    probe = torch.randn_like(found.gram)
    for value in (reduced, found.gram):
        layer.weight.grad = None
        (value * probe).sum().backward(retain_graph=True)
        if value is reduced:
            first = layer.weight.grad.clone()
    torch.testing.assert_close(layer.weight.grad, first)


def test_a_narrow_layer_is_not_reduced():
    found = of(nn.Linear(3, 7), (2, 3))
    assert found.reduced is found.matrix


def test_a_weight_of_zeros_can_be_reduced():
    layer = nn.Linear(7, 3)
    nn.init.zeros_(layer.weight)
    assert not of(layer, (2, 7)).reduced.any()


def test_the_simplified_measure_scales_the_plain_trace():
    layer = nn.Linear(7, 3)
    found = of(layer, (2, 7), quantity="simplified")
    assert found.matrix is found.gram is found.reduced is None
    torch.testing.assert_close(found.scaled(torch.tensor(2.0)), 2 * layer.weight.square().sum())
    released = of(layer, (2, 7), quantity="simplified", as_released=True)
    torch.testing.assert_close(released.scale, layer.weight.square().sum().sqrt())
