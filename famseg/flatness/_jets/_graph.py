"""Operations on jets that keep only their arguments for the backward pass.

The jet of a normalization takes about twenty elementwise operations, and torch would keep the
arguments of each. Almost all of them can be recomputed from the jet itself and from tensors that
the plain pass keeps anyway, in less time than the adjacent convolution takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Call a function whose intermediate results are recomputed in the backward pass.

    Arguments that other operations keep for their backward pass need no additional memory. The
    result can be differentiated as often as the function can.

    Args:
        function: Takes the tensors and returns one tensor; must be deterministic.
        tensors: Its arguments; any other values are held constant.

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
    twice = torch.is_grad_enabled()  # the gradient itself will be differentiated
    with torch.enable_grad():
        # Separate tensors, since one may be passed as several arguments.
        given = [
            tensor.view_as(tensor) if twice else tensor.detach().requires_grad_(need)
            for tensor, need in zip(tensors, needed, strict=True)
        ]
        result = function(*given)
        if not result.requires_grad:  # depends on the arguments only through their signs
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
