"""The definition of relative flatness, computed from the whole Hessian."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from famseg.flatness._errors import LayerError, LossError
from famseg.flatness._tracing._derivatives import gradient


def relative_flatness(loss: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    r"""Return the exact relative flatness of one layer.

    .. math:: \kappa(w) = \sum_{s,t=1}^{d} \langle w_s, w_t \rangle \operatorname{tr} H_{st}

    with :math:`w_s` row ``s`` of ``weight`` and :math:`H_{st}` the Hessian block of rows ``s`` and
    ``t`` (Petzka et al., *Relative Flatness and Generalization*, NeurIPS 2021, definition 3).
    Exact, without variance. It costs ``d * m`` Hessian-vector products, whose graphs are kept, and
    is the reference for testing faster estimators. It uses only reverse mode, so ``loss`` may
    contain every operation that can be differentiated twice.

    Args:
        loss: Maps a weight of the layer's shape to a scalar loss.
        weight: The layer's weight, shape ``(d, m)``, one row per neuron.

    Returns:
        A scalar, differentiable in ``weight`` and in all that ``loss`` depends on. It may be
        negative where the loss is not convex in the layer.

    Raises:
        LayerError: If ``weight`` is not a matrix of floating-point numbers.
        LossError: If ``loss`` does not return a scalar.

    Example:
        >>> import torch
        >>> w = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
        >>> relative_flatness(lambda v: v.square().sum() / 2, w).item()  # H is the identity here
        12.0
    """
    if weight.ndim != 2:
        raise LayerError(
            f"weight must have shape (d, m), got {tuple(weight.shape)}. "
            "Flatten a convolution kernel with weight.flatten(1)."
        )
    if not weight.is_floating_point():
        raise LayerError(f"weight must contain floating-point numbers, got {weight.dtype}.")
    with torch.enable_grad():
        # Differentiated with respect to a shift, so that the result is differentiable in `weight`.
        shift = torch.zeros_like(weight, requires_grad=True)
        value = loss(weight + shift)
        if value.ndim != 0:
            raise LossError(f"loss must return a scalar, got shape {tuple(value.shape)}.")
        slope = gradient(value, shift, create_graph=True)
        gram = weight @ weight.T
        kappa = torch.zeros_like(value)
        for s, k in itertools.product(*map(range, weight.shape)):
            row = gradient(slope[s, k], shift, create_graph=True)  # (d, m)
            kappa = kappa + gram[s] @ row[:, k]
    return kappa
