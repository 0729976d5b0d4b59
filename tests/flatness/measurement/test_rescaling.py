from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional as F

from famseg.flatness import FlatnessError, LayerNotFoundError, rescaled, rescaled_layer


@pytest.fixture
def relu() -> nn.Sequential:
    """Positively homogeneous between "0" (6 x 4), "2" (5 x 6) and "4" (3 x 5)."""
    layers = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.LeakyReLU(), nn.Linear(5, 3)
    return nn.Sequential(*layers).double()


@pytest.fixture
def trace() -> Callable[[nn.Module, str, Tensor, Tensor], float]:
    """Tr(H) from the whole Hessian."""

    def of(model: nn.Module, layer: str, inputs: Tensor, targets: Tensor) -> float:
        weight = model.get_submodule(layer).weight.detach()

        def loss(moved: Tensor) -> Tensor:
            outputs = functional_call(model, {f"{layer}.weight": moved}, (inputs,))
            return F.cross_entropy(outputs, targets)

        return hessian(loss, weight).reshape(weight.numel(), -1).trace().item()

    return of


@pytest.mark.parametrize("layer", ["0", "2", "4"])
def test_a_layer_rescaled_with_its_inputs_computes_the_same(relu, batch, layer) -> None:
    before, weight = relu(batch[0]), relu.get_submodule(layer).weight
    with rescaled_layer(relu, layer, 3.0):
        assert torch.allclose(relu(batch[0]), before, rtol=1e-14)
        assert torch.equal(relu.get_submodule(layer).weight, 3 * weight)
        assert relu.get_submodule(layer).weight.requires_grad
    assert relu.get_submodule(layer).weight is weight
    assert torch.equal(relu(batch[0]), before)


@pytest.mark.parametrize("layer", ["0", "2"])
def test_kappa_stays_and_the_trace_does_not_when_a_layer_is_rescaled(
    net, batch, oracle, trace, layer
) -> None:
    kappa = oracle(net, layer, F.cross_entropy, *batch)
    plain = trace(net, layer, *batch)
    with rescaled_layer(net, layer, 0.5):
        assert oracle(net, layer, F.cross_entropy, *batch) == pytest.approx(kappa, rel=1e-6)
        assert trace(net, layer, *batch) == pytest.approx(4 * plain, rel=1e-10)


def test_kappa_of_both_layers_stays_when_two_are_rescaled(relu, batch, oracle, trace) -> None:
    kappas = [oracle(relu, name, F.cross_entropy, *batch) for name in ("0", "2")]
    traces = [trace(relu, name, *batch) for name in ("0", "2")]
    before = relu(batch[0])
    with rescaled(relu, "0", "2", 2.0):
        assert torch.allclose(relu(batch[0]), before, rtol=1e-13)
        for name, kappa in zip(("0", "2"), kappas, strict=True):
            found = oracle(relu, name, F.cross_entropy, *batch)
            assert found == pytest.approx(kappa, rel=1e-5, abs=1e-8)
        assert trace(relu, "0", *batch) == pytest.approx(traces[0] / 4, rel=1e-10)
        assert trace(relu, "2", *batch) == pytest.approx(traces[1] * 4, rel=1e-10)


def test_two_rescaled_layers_around_tanh_are_another_function(net, batch) -> None:
    before = net(batch[0])
    with rescaled(net, "0", "2", 2.0):
        assert (net(batch[0]) - before).abs().max() > 1e-2


def test_an_input_given_by_keyword_is_rescaled() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(input=x)

    model, inputs = Keyword(), torch.randn(4, 3)
    before = model(inputs)
    with rescaled_layer(model, "layer", 4.0):
        assert torch.allclose(model(inputs), before)


def test_a_transposed_convolution_keeps_its_output_size_argument() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.ConvTranspose2d(2, 3, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x, [8, 8])

    model, inputs = Decoder(), torch.randn(1, 2, 3, 3)
    before = model(inputs)
    with rescaled_layer(model, "layer", 4.0):
        assert torch.allclose(model(inputs), before, atol=1e-6)
    assert before.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_leaves_the_model_as_it_was(relu, error) -> None:
    parameters, hooks = list(relu.parameters()), _hooks(relu)
    values = [p.detach().clone() for p in parameters]

    def interrupted() -> None:
        with rescaled(relu, "0", "2", 2.0), rescaled_layer(relu, "4", 2.0):
            assert not torch.equal(relu[0].bias, parameters[1])
            raise error

    with pytest.raises(error):
        interrupted()
    assert all(p is q for p, q in zip(relu.parameters(), parameters, strict=True))
    assert all(torch.equal(p, v) for p, v in zip(parameters, values, strict=True))
    assert _hooks(relu) == hooks


def test_a_layer_without_bias_is_rescaled() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    inputs = torch.randn(5, 3)
    before = model(inputs)
    with rescaled(model, "0", "2", 5.0):
        assert torch.allclose(model(inputs), before, atol=1e-6)
        assert model[0].bias is None


@pytest.mark.parametrize("factor", [0.0, -2.0, float("inf"), float("nan")])
def test_a_factor_that_is_not_positive_is_refused(relu, factor) -> None:
    message = r"must be a finite number above 0, got"
    with pytest.raises(FlatnessError, match=message), rescaled_layer(relu, "0", factor):
        pass
    with pytest.raises(FlatnessError, match=message), rescaled(relu, "0", "2", factor):
        pass


def test_names_that_are_wrong_are_refused(relu) -> None:
    with pytest.raises(LayerNotFoundError, match="no layer is called '7'"):
        rescaled_layer(relu, "7", 2.0).__enter__()
    with pytest.raises(FlatnessError, match=r"are both layer '0'\. Name two different layers"):
        rescaled(relu, "0", "0", 2.0).__enter__()


def _hooks(model: nn.Module) -> list[int]:
    return [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
