"""Operations on jets that keep their arguments for the backward pass, and nothing in between.

The jet of a normalization takes about twenty elementwise operations, and torch keeps the arguments
of each. Almost all of them can be had again from the jet itself and from tensors that the plain
pass keeps anyway, in less time than it takes the convolution next to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Call a function whose intermediate results are computed again in the backward pass.

    Tensors that others keep for their own backward pass cost no memory here. The result can be
    differentiated as often as the function can.

    Args:
        function: Takes the tensors and returns one; the same each time it is called.
        tensors: Its arguments; what else it uses is held constant.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> (slope,) = torch.autograd.grad(recomputed(torch.square, x), x, create_graph=True)
        >>> slope.item(), torch.autograd.grad(slope, x)[0].item()
        (6.0, 2.0)
    """
    result: Tensor = _Recomputed.apply(function, *tensors)  # type: ignore[no-untyped-call]
    return result


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:  # noqa: ANN401
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return None, *pulled(ctx.function, ctx.saved_tensors, slope, ctx.needs_input_grad[1:])


def pulled(
    function: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    slope: Tensor,
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradient in the arguments of a function, from inside a backward pass.

    Args:
        function: The function.
        tensors: Its arguments.
        slope: The gradient in its result.
        needed: Which arguments need one.
    """
    twice = torch.is_grad_enabled()  # the gradient itself is to be differentiated
    with torch.enable_grad():
        # Tensors of their own, since one may be given as several arguments.
        given = [
            tensor.view_as(tensor) if twice else tensor.detach().requires_grad_(need)
            for tensor, need in zip(tensors, needed, strict=True)
        ]
        result = function(*given)
        if not result.requires_grad:  # those that need one enter by their signs alone
            return (None,) * len(given)
        found = torch.autograd.grad(
            result,
            [tensor for tensor, need in zip(given, needed, strict=True) if need],
            slope,
            create_graph=twice,
            materialize_grads=True,
        )
    slopes = iter(found)
    return tuple(next(slopes) if need else None for need in needed)
