from __future__ import annotations

import pytest
import torch
from torch import nn

from famseg.engine._weight_noise import WeightNoise


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype))
        for shape in ((30, 20), (40,))
    ]


def moves(
    weights: list[nn.Parameter], *, step: int = 0, sigma: float = 0.1, pairs: int = 1, seed: int = 0
) -> list[torch.Tensor]:
    """Return the moves of all weights as one vector for each place."""
    before = torch.cat([weight.detach().flatten() for weight in weights])
    with WeightNoise(weights, sigma=sigma, pairs=pairs, seed=seed).around(step) as places:
        return [
            torch.cat([weight.detach().flatten() for weight in weights]) - before for _ in places
        ]


def test_each_noise_is_added_and_taken_away() -> None:
    found = moves(parameters(), pairs=2)
    assert len(found) == 4
    torch.testing.assert_close(found[0], -found[1])
    torch.testing.assert_close(found[2], -found[3])
    assert float((found[0] - found[2]).norm()) > 1


def test_the_noise_is_normal_of_the_given_size_on_every_weight() -> None:
    values = torch.cat([moves(parameters(), step=step)[0] for step in range(20)]) / 0.1
    n = len(values)
    assert abs(float(values.mean())) < 4 / n**0.5
    assert abs(float(values.square().mean()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float(values.pow(4).mean()) - 3) < 4 * (96 / n) ** 0.5


def test_the_noise_is_a_function_of_seed_and_step() -> None:
    first = moves(parameters(), step=3)[0]
    torch.manual_seed(123)
    assert torch.equal(first, moves(parameters(), step=3)[0])
    for other in ({"step": 4}, {"step": 3, "seed": 1}):
        difference = first - moves(parameters(), **other)[0]
        assert float(difference.norm()) > 1
    torch.testing.assert_close(
        first.float(), moves(parameters(torch.float32), step=3)[0], rtol=1e-4, atol=1e-5
    )


def test_the_weights_come_back_to_the_bit_also_after_an_error() -> None:
    weights = parameters(torch.float32)
    before = [weight.detach().clone() for weight in weights]
    noise = WeightNoise(weights, sigma=3.0, seed=0)

    def fail() -> None:
        with noise.around(0) as places:
            next(places)
            assert not torch.equal(weights[0], before[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(torch.equal(*pair) for pair in zip(weights, before, strict=True))


def test_frozen_weights_stay_where_they_are() -> None:
    weights = parameters()
    weights[1].requires_grad_(False)
    assert float(moves(weights)[0][-40:].norm()) == 0


def test_the_mean_gradient_is_that_of_the_loss_and_half_the_trace_of_its_hessian() -> None:
    # L = sum of w^4 / 4: L' = w^3, tr H = sum of 3 w^2, hence the gradient w^3 + 3 sigma^2 w.
    weight = nn.Parameter(torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64))
    noise = WeightNoise([weight], sigma=0.3, pairs=5_000, seed=0)
    gradients = []
    with noise.around(0) as places:
        for _ in places:
            (gradient,) = torch.autograd.grad(weight.pow(4).sum() / 4, weight)
            gradients.append(gradient)
    pairs = torch.stack(gradients).view(-1, 2, 3).mean(1)
    expected = weight.detach().pow(3) + 3 * 0.3**2 * weight.detach()
    z = (pairs.mean(0) - expected) / (pairs.std(0) / len(pairs) ** 0.5)
    assert float(z.abs().max()) < 4
    assert float(((weight.detach().pow(3) - expected) / expected).abs().max()) > 0.2
