"""Small float64 networks, and an oracle of kappa that uses no derivative of torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

Kappa = Callable[[], Tensor]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def net() -> nn.Sequential:
    """Smooth layers of several shapes: "0" is 6 x 4, "2" is 5 x 6, "4" is 3 x 5."""
    layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
    return nn.Sequential(*layers).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])


@pytest.fixture
def oracle() -> Callable[..., float]:
    """Kappa from values of the loss alone.

    kappa is the sum over unit matrices E_jk of the second derivative of the loss along W E_jk, here
    by central differences of the loss with Richardson extrapolation.
    """

    def kappa(
        model: nn.Module, layer: str, loss: Callable, inputs: Tensor, targets: object
    ) -> float:
        weight = model.get_submodule(layer).weight.detach()

        @torch.no_grad()
        def at(direction: Tensor, step: float) -> float:
            moved = {f"{layer}.weight": weight + step * direction}
            return loss(functional_call(model, moved, (inputs,)), targets).item()

        def second(direction: Tensor, step: float) -> float:
            return (at(direction, step) + at(direction, -step) - 2 * at(direction, 0)) / step**2

        total = 0.0
        for j, k in itertools.product(range(weight.shape[1]), repeat=2):
            direction = torch.zeros_like(weight)
            direction[:, k] = weight[:, j]
            total += (4 * second(direction, 4e-3) - second(direction, 8e-3)) / 3
        return total

    return kappa


@pytest.fixture
def check_gradient() -> Callable[[Kappa, nn.Module], None]:
    """Compare a value's gradient in all parameters of a model with differences of the value."""

    def check(
        value: Kappa,
        model: nn.Module,
        *,
        step: float = 1e-3,
        rel: float = 2e-6,
        directions: int = 3,
    ) -> None:
        parameters = list(model.parameters())
        gradient = torch.autograd.grad(value(), parameters, materialize_grads=True)
        generator = torch.Generator().manual_seed(1)

        def moved(direction: list[Tensor], by: float) -> float:
            with torch.no_grad():
                for p, v in zip(parameters, direction, strict=True):
                    p.add_(v, alpha=by)
            found = value().item()
            with torch.no_grad():
                for p, v in zip(parameters, direction, strict=True):
                    p.sub_(v, alpha=by)
            return found

        def slope(direction: list[Tensor], by: float) -> float:
            return (moved(direction, by) - moved(direction, -by)) / (2 * by)

        for _ in range(directions):
            direction = [torch.randn(p.shape, generator=generator).to(p) for p in parameters]
            wanted = (4 * slope(direction, step) - slope(direction, 2 * step)) / 3
            found = sum((g * v).sum().item() for g, v in zip(gradient, direction, strict=True))
            assert found == pytest.approx(wanted, rel=rel, abs=1e-9)

    return check
