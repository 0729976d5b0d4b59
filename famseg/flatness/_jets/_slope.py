"""The jet of a function with two slopes, one of which is trained, with its backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from famseg.flatness._jets._graph import pulled


def sloped(parts: Tensor, positive: Tensor, weight: Tensor) -> Tensor:
    """Return the jet where the slope is 1, and the jet times a weight elsewhere.

    Only the jet and the mask are saved for the backward pass, which is written explicitly, since
    torch's own needs about three times as many memory accesses. The result can be differentiated
    twice.

    Args:
        parts: The jet, shape ``(1 or 2, *rows)``.
        positive: Mask of the elements with slope 1, of shape ``rows``.
        weight: The other slope, broadcast to ``rows``.

    Returns:
        The jet, with the shape of ``parts``, differentiable in ``parts`` and ``weight``.
    """
    result: Tensor = _Sloped.apply(parts, positive, weight)  # type: ignore[no-untyped-call]
    return result


def by_definition(parts: Tensor, positive: Tensor, weight: Tensor) -> Tensor:
    """Return the result of `sloped`, computed by differentiable operations."""
    return parts * torch.where(positive, torch.ones_like(weight), weight)


class _Sloped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, positive: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(parts, positive, weight)
        return parts * _slope(positive.to(parts.dtype), weight)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        parts, positive, weight = ctx.saved_tensors
        of_parts, _, of_weight = ctx.needs_input_grad
        if torch.is_grad_enabled():  # the gradient itself will be differentiated
            found = pulled(
                lambda parts, weight: by_definition(parts, positive, weight),
                (parts, weight),
                slope,
                (of_parts, of_weight),
            )
            return found[0], None, found[1]
        ones = positive.to(parts.dtype)
        in_weight = None
        if of_weight:
            products = slope[0] * parts[0]
            if len(parts) == 2:
                products.addcmul_(slope[1], parts[1])
            in_weight = products.addcmul_(products, ones, value=-1).sum_to_size(weight.shape)
        return slope * _slope(ones, weight) if of_parts else None, None, in_weight


def _slope(ones: Tensor, weight: Tensor) -> Tensor:
    # The factor is exactly the weight there, even if the weight is tiny.
    return torch.addcmul(weight, ones, 1 - weight)
