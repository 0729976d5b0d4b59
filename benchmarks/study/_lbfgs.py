"""L-BFGS for many small problems in parallel, each with its own curvature and step length."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_ARMIJO = 1e-4
_HALVINGS = 12


def minimize(
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    steps: int = 100,
    memory: int = 8,
    tolerance: float = 1e-5,
) -> Tensor:
    """Return the solution of each of S problems.

    Args:
        objective: Maps parameters, shape ``(S, P)``, to values, shape ``(S,)``; each depends on its
            own row only.
        start: Initial parameters, shape ``(S, P)``.
        steps: Maximum number of steps.
        memory: Number of stored pairs of steps and gradient changes.
        tolerance: A problem whose gradient is smaller in every entry is solved.
    """
    x = start.detach().clone()
    value, grad = _evaluate(objective, x)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    stuck = torch.zeros_like(value, dtype=torch.bool)  # rounding errors prevent a decrease
    for step in range(steps):
        active = (grad.abs().amax(1) > tolerance) & ~stuck
        if not active.any():
            break
        direction = -_times_inverse_hessian(grad, pairs)
        slope = (direction * grad).sum(1)
        bad = slope >= 0
        direction = torch.where(bad[:, None], -grad, direction)
        slope = torch.where(bad, -grad.square().sum(1), slope)
        length = torch.ones_like(value)
        if step == 0:
            length = (1 / grad.norm(dim=1)).clamp(max=1)
        length = length * active
        for _ in range(_HALVINGS):
            new = x + length[:, None] * direction
            new_value, new_grad = _evaluate(objective, new)
            fine = (new_value <= value + _ARMIJO * length * slope) | ~active
            if fine.all():
                break
            length = torch.where(fine, length, length / 2)
        moved = fine & active
        stuck |= active & ~fine
        keep = moved[:, None]
        s = torch.where(keep, new - x, 0.0)
        y = torch.where(keep, new_grad - grad, 0.0)
        product = (s * y).sum(1)
        good = product > 1e-10 * y.square().sum(1)
        rho = torch.where(good, 1 / product.clamp(min=1e-30), 0.0)
        pairs = [*pairs[-memory + 1 :], (s, y, rho)]
        x, grad = torch.where(keep, new, x), torch.where(keep, new_grad, grad)
        value = torch.where(moved, new_value, value)
    return x


def _times_inverse_hessian(grad: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Return the product by the two-loop recursion (Nocedal and Wright, algorithm 7.4)."""
    q, alphas = grad, []
    for s, y, rho in reversed(pairs):
        alpha = rho * (s * q).sum(1)
        q = q - alpha[:, None] * y
        alphas.append(alpha)
    scale = torch.ones(len(grad))
    for s, y, rho in pairs:  # the newest usable pair of each problem
        new = (s * y).sum(1) / y.square().sum(1).clamp(min=1e-30)
        scale = torch.where(rho > 0, new, scale)
    q = q * scale[:, None]
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = rho * (y * q).sum(1)
        q = q + (alpha - beta)[:, None] * s
    return q


def _evaluate(objective: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    values = objective(x)
    (grad,) = torch.autograd.grad(values.sum(), x)
    return values.detach(), grad
