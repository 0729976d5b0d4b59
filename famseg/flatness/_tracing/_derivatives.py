"""First and second derivatives by reverse mode, with torch's errors translated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from famseg.flatness._errors import UnsupportedTailError

# Torch's messages when an operation has no second derivative.
_REFUSALS = (
    "not implemented",
    "once_differentiable",
    "double backward",
    "does not support",
    "aot_",
)


def gradient(value: Tensor, leaf: Tensor, *, create_graph: bool) -> Tensor:
    """Return d value / d leaf of a scalar, zeros where it does not depend on the leaf."""
    return pullback([value], [leaf], [torch.ones_like(value)], create_graph=create_graph)[0]


def pullback(
    outputs: Sequence[Tensor],
    leaves: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    *,
    create_graph: bool,
) -> tuple[Tensor, ...]:
    """Return the vector-Jacobian product for each leaf, zeros where nothing depends on it.

    Cotangents are constant in this derivative, but not when the result is differentiated.

    Args:
        outputs: Tensors to differentiate.
        leaves: Tensors in which they are differentiated.
        cotangents: One for each output, with its shape.
        create_graph: Whether the result can be differentiated.

    Raises:
        UnsupportedTailError: If torch has no derivative of an operation.
    """
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    differentiable, weights = zip(*pairs, strict=True)
    try:
        return torch.autograd.grad(
            differentiable,
            leaves,
            weights,
            create_graph=create_graph,
            retain_graph=True,
            materialize_grads=True,
        )
    except RuntimeError as error:
        if not any(refusal in str(error) for refusal in _REFUSALS):
            raise
        raise UnsupportedTailError(
            "an operation after the penalized layer cannot be differentiated twice in torch "
            f"({str(error).splitlines()[0]}). Replace it, penalize a layer after it, use "
            'estimator="noise", which needs no second derivatives, or run a compiled operation '
            'under torch.compiler.set_stance("force_eager").'
        ) from error
