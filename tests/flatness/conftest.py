"""Small float64 networks, and oracles of kappa that use no derivative of torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

Kappa = Callable[[], Tensor]
Loss = Callable[[object, object], Tensor]


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


def matrices(layer: nn.Module) -> list[Tensor]:
    """Views of a layer's weight as matrices (d, m), one a group, that share its memory."""
    weight = layer.weight.detach()
    groups = getattr(layer, "groups", 1)
    if type(layer).__name__.startswith("ConvTranspose"):
        return [part.transpose(0, 1) for part in weight.chunk(groups)]
    return list(weight.chunk(groups))


def along_columns(layer: nn.Module) -> Iterator[Tensor]:
    """All W E_jk, E_jk a unit matrix (m, m): kappa is the sum of second derivatives along them."""
    for group, matrix in enumerate(matrices(layer)):
        m = matrix[0].numel()
        for j, k in itertools.product(range(m), repeat=2):
            yield _in_group(layer, group, lambda flat, j=j, k=k: _column(flat, j, k))


def along_entries(layer: nn.Module) -> Iterator[Tensor]:
    """All unit matrices of the weight's shape: the trace is the sum along them."""
    for index in range(layer.weight.numel()):
        unit = torch.zeros_like(layer.weight).flatten()
        unit[index] = 1
        yield unit.reshape(layer.weight.shape)


def _in_group(layer: nn.Module, group: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    direction = torch.zeros_like(layer.weight.detach())
    groups = getattr(layer, "groups", 1)
    target = direction.chunk(groups)[group]
    if type(layer).__name__.startswith("ConvTranspose"):
        target = target.transpose(0, 1)
    flat = matrices(layer)[group].flatten(1)
    target.copy_(change(flat).reshape(target.shape))
    return direction


def _column(flat: Tensor, j: int, k: int) -> Tensor:
    moved = torch.zeros_like(flat)
    moved[:, k] = flat[:, j]
    return moved


def second_differences(
    model: nn.Module,
    layer: str,
    loss: Loss,
    inputs: object,
    targets: object,
    directions: Iterator[Tensor],
    step: float = 4e-3,
) -> float:
    """Sum of the loss's second derivatives along directions, by differences of its values."""
    name = f"{layer}.weight" if layer else "weight"
    weight = model.get_submodule(layer).weight.detach()
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)

    @torch.no_grad()
    def at(direction: Tensor, by: float) -> float:
        moved = {name: weight + by * direction}
        return loss(functional_call(model, moved, arguments), targets).item()

    def second(direction: Tensor, by: float) -> float:
        return (at(direction, by) + at(direction, -by) - 2 * at(direction, 0)) / by**2

    return sum((4 * second(v, step) - second(v, 2 * step)) / 3 for v in directions)


@pytest.fixture
def oracle() -> Callable[..., float]:
    """Kappa of one layer from values of the loss alone.

    kappa is the sum over unit matrices E_jk of the second derivative of the loss along W E_jk, here
    by central differences of the loss with Richardson extrapolation; a convolution's kernel is
    flattened to one row a channel, and its groups are added up.
    """

    def kappa(model: nn.Module, layer: str, loss: Loss, inputs: object, targets: object) -> float:
        directions = along_columns(model.get_submodule(layer))
        return second_differences(model, layer, loss, inputs, targets, directions)

    return kappa


@pytest.fixture
def trace_oracle() -> Callable[..., float]:
    """The trace of one layer's Hessian from values of the loss alone."""

    def trace(model: nn.Module, layer: str, loss: Loss, inputs: object, targets: object) -> float:
        directions = along_entries(model.get_submodule(layer))
        return second_differences(model, layer, loss, inputs, targets, directions)

    return trace


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
