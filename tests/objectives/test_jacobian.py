from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from famseg.messages import InputError
from famseg.objectives import JacobianNorm, JacobianNormConfig, Objective, squared_jacobian_norm
from famseg.objectives._random import generator_at

INPUTS = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGETS = torch.tensor([0, 1, 1, 0, 1])


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def reference(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the mean over samples of the squared norm of each sample's own Jacobian."""
    parameters = dict(model.named_parameters())

    def outputs(sample: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(model, parameters, (sample[None],))
        return result[0]

    jacobians = torch.func.vmap(torch.func.jacrev(outputs))(inputs)
    return jacobians.flatten(1).square().sum(1).mean()


def penalty_of(model: nn.Module, **options: Any) -> Tensor:
    terms = JacobianNorm(model, loss=nn.functional.cross_entropy, **options)
    penalty = terms(INPUTS, TARGETS).penalty
    assert penalty is not None
    return penalty


def test_the_exact_norm_and_its_gradient_are_those_of_jacrev() -> None:
    model = net()
    expected = reference(model, INPUTS) / 2
    found = penalty_of(model, weight=0.5, projections="all")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    parameters = [model[0].weight, model[0].bias, model[2].weight]
    pairs = zip(
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    )
    for gradient, of_reference in pairs:
        torch.testing.assert_close(gradient, of_reference, rtol=1e-10, atol=1e-14)


def test_the_total_is_the_loss_and_lambda_times_half_the_norm() -> None:
    model = net()
    terms = JacobianNorm(model, loss=nn.functional.cross_entropy, weight=0.5, projections="all")(
        INPUTS, TARGETS
    )
    loss = nn.functional.cross_entropy(model(INPUTS), TARGETS)
    torch.testing.assert_close(terms.loss, loss)
    torch.testing.assert_close(terms.total, loss + 0.25 * reference(model, INPUTS))


@pytest.mark.parametrize("projections", [1, 3])
def test_random_projections_are_unbiased(projections: int) -> None:
    model, draws = net(), 400
    terms = JacobianNorm(
        model, loss=nn.functional.cross_entropy, weight=0.5, projections=projections
    )
    found = []
    for step in range(draws):
        terms.seek(step)
        penalty = terms(INPUTS, TARGETS).penalty
        (gradient,) = torch.autograd.grad(penalty, model[0].weight)
        found.append(torch.cat([penalty.detach().view(1), gradient.flatten()]))
    values = torch.stack(found)
    exact = penalty_of(model, weight=0.5, projections="all")
    (gradient,) = torch.autograd.grad(exact, model[0].weight)
    expected = torch.cat([exact.detach().view(1), gradient.flatten()])
    error = values.std(0) / draws**0.5
    assert float(((values.mean(0) - expected) / error).abs().max()) < 4
    assert float(error[0] / expected[0]) < 0.05  # small enough to tell a wrong factor


def test_the_projections_are_a_function_of_seed_step_and_stream() -> None:
    objective = Objective(JacobianNorm(net(), loss=nn.functional.cross_entropy, weight=0.5, seed=3))

    def at(step: int, stream: int = 0) -> float:
        objective.seek(step, stream=stream)
        return objective({"image": INPUTS, "label": TARGETS}).penalty.item()

    first = at(2)
    torch.manual_seed(123)
    assert len({first, at(3), at(2, 1)}) == 3
    assert at(2) == first


def test_outputs_of_any_shape_are_taken_as_a_list() -> None:
    torch.manual_seed(0)
    kernel = nn.Conv2d(1, 2, 3, padding=1, bias=False).double()
    inputs = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    found = squared_jacobian_norm(kernel(inputs), inputs, projections="all")
    jacobian = torch.func.jacrev(kernel)(inputs[:1].detach())
    torch.testing.assert_close(found, jacobian.square().sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("how", ["evaluation", "lambda"])
def test_there_is_no_penalty_in_evaluation_or_with_lambda_zero(how: str) -> None:
    terms = JacobianNorm(
        net(), loss=nn.functional.cross_entropy, weight=0.0 if how == "lambda" else 1.0
    )
    found = terms.train(how == "lambda")(INPUTS, TARGETS)
    assert found.penalty is None
    assert found.total is found.loss


class Attention(nn.Module):
    """A network whose fast kernels have no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0].mean(1)
        return result


def test_attention_has_the_second_derivatives() -> None:
    model = Attention()
    terms = JacobianNorm(model, loss=nn.functional.cross_entropy, weight=1.0)
    terms(torch.randn(5, 3, 4), TARGETS).total.backward()
    assert float(model.attention.in_proj_weight.grad.norm()) > 0


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        (
            torch.zeros(5, 3, dtype=torch.int64),
            r"the input must be .*, not a tensor of torch\.int64",
        ),
        ({"input_ids": INPUTS}, r"the input must be .*, not dict"),
    ],
)
def test_an_input_without_derivatives_is_refused(inputs: Any, found: str) -> None:
    terms = JacobianNorm(net(), loss=nn.functional.cross_entropy, weight=1.0)
    with pytest.raises(InputError, match=rf"penalty\.kind: jacobian_norm .*{found}"):
        terms(inputs, TARGETS)


def test_an_output_that_is_no_tensor_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    terms = JacobianNorm(Two(), loss=nn.functional.cross_entropy, weight=1.0)
    with pytest.raises(InputError, match="the output must be one tensor of real numbers"):
        terms(INPUTS, TARGETS)


def test_the_section_builds_it() -> None:
    config = JacobianNormConfig.model_validate(
        {"kind": "jacobian_norm", "lambda": 0.2, "projections": "all"}
    )
    terms = config.build(net(), nn.functional.cross_entropy, seed=5)
    assert (terms.weight, terms.projections, terms.seed) == (0.2, "all", 5)
    assert Objective(terms).weight == 0.2
    default = JacobianNormConfig(kind="jacobian_norm")
    assert (default.weight, default.projections) == (0.01, 1)


def test_positions_are_mixed_over_all_bits_of_a_seed() -> None:
    def draw(*position: int | str) -> float:
        return torch.rand(1, generator=generator_at(*position)).item()

    places = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (1 << 32, "a", 1)]
    assert len({draw(*place) for place in places}) == len(places)
    assert draw(*places[0]) == draw(*places[0])
