r"""The jet of a normalization, with an explicit backward pass.

With centered values :math:`c`, variance :math:`s = \overline{c^2}` and
:math:`r = (s + \epsilon)^{-1/2}`, the jet of :math:`y = r c` is

.. math:: y' = r c' + r' c, \qquad y'' = r c'' + 2 r' c' + r'' c

with :math:`s' = 2\overline{c c'}`, :math:`s'' = 2\overline{c'^2 + c c''}`,
:math:`r' = -\tfrac12 r^3 s'` and :math:`r'' = \tfrac34 r^5 s'^2 - \tfrac12 r^3 s''`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from famseg.flatness._jets._graph import pulled

Dims = tuple[int, ...]


def normalized(x: Tensor, parts: Tensor, dims: Dims, eps: float) -> Tensor:
    """Return the jet of ``(x - mean) / sqrt(var + eps)``.

    Only the two arguments are kept for the backward pass, which is written out below.

    Args:
        x: The tensor to normalize.
        parts: Its jet, of shape ``(1 or 2, *x.shape)``.
        dims: Dimensions over which mean and variance are computed.
        eps: Constant added to the variance.

    Returns:
        Shape ``(2, *x.shape)``.
    """
    result: Tensor = _Normalized.apply(x, parts, dims, eps)  # type: ignore[no-untyped-call]
    return result


class _Normalized(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Tensor, dims: Dims, eps: float) -> Tensor:  # noqa: ANN401
        ctx.dims, ctx.eps = dims, eps
        ctx.save_for_backward(x, parts)
        return _in_place(x, parts, dims, eps)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, parts = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient itself will be differentiated

            def function(x: Tensor, parts: Tensor) -> Tensor:
                return by_definition(x, parts, ctx.dims, ctx.eps)

            return *pulled(function, (x, parts), slope, ctx.needs_input_grad[:2]), None, None
        return *_pulled_back(slope, x, parts, ctx.dims, ctx.eps), None, None


class _Scales(NamedTuple):
    """The reciprocal standard deviation and the variance with their first two derivatives."""

    r: Tensor
    r1: Tensor
    r2: Tensor
    s1: Tensor
    s2: Tensor


def by_definition(x: Tensor, parts: Tensor, dims: Dims, eps: float) -> Tensor:
    """Return the result of `normalized`, computed by differentiable operations."""
    c, c1, c2 = _centered(x, parts, dims)
    r, r1, r2, *_ = _scales(c, c1, c2, dims, eps)
    second = c1 * (2 * r1) + c * r2
    if c2 is not None:
        second = second + c2 * r
    return torch.stack([c1 * r + c * r1, second])


def _in_place(x: Tensor, parts: Tensor, dims: Dims, eps: float) -> Tensor:
    """Return the same without a graph, using little more memory than the result."""
    c, c1, c2 = _centered(x, parts, dims)
    r, r1, r2, *_ = _scales(c, c1, c2, dims, eps)
    found = x.new_empty(2, *x.shape)
    torch.mul(c1, r, out=found[0]).addcmul_(c, r1)
    torch.mul(c1, 2 * r1, out=found[1]).addcmul_(c, r2)
    if c2 is not None:
        found[1].addcmul_(c2, r)
    return found


def _centered(x: Tensor, parts: Tensor, dims: Dims) -> tuple[Tensor, Tensor, Tensor | None]:
    behind = tuple(d if d < 0 else d + 1 for d in dims)
    both = parts - parts.mean(behind, keepdim=True)
    return x - x.mean(dims, keepdim=True), both[0], both[1] if len(both) == 2 else None


def _scales(c: Tensor, c1: Tensor, c2: Tensor | None, dims: Dims, eps: float) -> _Scales:
    r = (c.square().mean(dims, keepdim=True) + eps).rsqrt()
    s1 = 2 * (c * c1).mean(dims, keepdim=True)
    s2 = c1.square().mean(dims, keepdim=True)
    if c2 is not None:
        s2 = s2 + (c * c2).mean(dims, keepdim=True)
    s2 = 2 * s2
    cube = -r.pow(3) / 2
    return _Scales(r, cube * s1, cube * s2 + 0.75 * r.pow(5) * s1.square(), s1, s2)


def _pulled_back(
    slope: Tensor, x: Tensor, parts: Tensor, dims: Dims, eps: float
) -> tuple[Tensor, Tensor]:
    r"""Return the gradient in value and jet for a gradient :math:`g', g''` in the resulting jet.

    The scales depend on all values: ``of_r`` is the gradient :math:`\sum c' g' + c'' g''` in ``r``,
    and similarly for its derivatives. By the chain rule these give ``of_s``, the gradient in the
    variance, and those in its two derivatives.
    """
    c, c1, c2 = _centered(x, parts, dims)
    r, r1, r2, s1, s2 = _scales(c, c1, c2, dims, eps)
    g1, g2 = slope

    def summed(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum(dims, keepdim=True)

    of_r = summed(c1, g1) if c2 is None else summed(c1, g1) + summed(c2, g2)
    of_r1, of_r2 = summed(c, g1) + 2 * summed(c1, g2), summed(c, g2)
    of_s1 = -r.pow(3) / 2 * of_r1 + 1.5 * r.pow(5) * s1 * of_r2
    of_s2 = -r.pow(3) / 2 * of_r2
    of_r = of_r - 1.5 * r.square() * s1 * of_r1
    of_r = of_r + (3.75 * r.pow(4) * s1.square() - 1.5 * r.square() * s2) * of_r2
    of_s = -r.pow(3) / 2 * of_r
    share = 2 / (c.numel() // r.numel())

    of_c1 = (r * g1).addcmul_(2 * r1, g2).addcmul_(share * of_s1, c).addcmul_(2 * share * of_s2, c1)
    of_x = (r1 * g1).addcmul_(r2, g2).addcmul_(share * of_s1, c1).addcmul_(share * of_s, c)
    found = [of_c1]
    if c2 is not None:
        of_x.addcmul_(share * of_s2, c2)
        found.append((r * g2).addcmul_(share * of_s2, c))
    for one in (of_x, *found):
        one -= one.mean(dims, keepdim=True)
    return of_x, torch.stack(found)
