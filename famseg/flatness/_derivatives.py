"""First and second derivatives by reverse mode, and torch's refusals in plain words."""

from __future__ import annotations

import torch
from torch import Tensor

from famseg.flatness._errors import UnsupportedTailError

# What torch says when an operation has no second derivative.
_REFUSALS = (
    "not implemented",
    "once_differentiable",
    "double backward",
    "does not support",
    "aot_",
)


def gradient(value: Tensor, leaf: Tensor, *, create_graph: bool) -> Tensor:
    """Return d value / d leaf, zeros where value does not depend on leaf."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    try:
        (slope,) = torch.autograd.grad(
            value, leaf, create_graph=create_graph, retain_graph=True, materialize_grads=True
        )
    except RuntimeError as error:
        if not any(refusal in str(error) for refusal in _REFUSALS):
            raise
        raise UnsupportedTailError(
            "an operation after the penalised layer cannot be differentiated twice in torch "
            f"({str(error).splitlines()[0]}). Replace it, penalise a layer behind it, or run a "
            'compiled module under torch.compiler.set_stance("force_eager").'
        ) from error
    return slope
