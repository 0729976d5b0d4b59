"""Relative flatness in closed form: a linear head under softmax cross-entropy."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from famseg.flatness._errors import LayerError, NotApplicableError

ClosedForm = Callable[..., Tensor]


def cross_entropy_flatness(
    features: Tensor,
    logits: Tensor,
    targets: Tensor,
    weight: Tensor,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Return each sample's relative flatness of a linear head under softmax cross-entropy.

    .. math:: \kappa_i = a_i \lVert\phi_i\rVert^2
        \Bigl(\sum_s p_s \lVert w_s\rVert^2 - \lVert W^\top p\rVert^2\Bigr)

    with :math:`p = \operatorname{softmax}(z_i)` (Petzka et al., NeurIPS 2021, definition 3, with
    the Hessian of cross-entropy, :math:`\operatorname{diag}(p) - pp^\top`). :math:`a_i` is what
    the options of the loss make of sample ``i``: 1 without any, class weights over their mean, 0
    where it is ignored. No Hessian is formed: time ``O(n d m)``, memory ``O(n (d + m))``.

    The bracket is the spread of the rows of ``W`` under ``p``. It is computed around the row of the
    likeliest class, which keeps its digits where the network is sure and the bracket is tiny.

    Args:
        features: Inputs of the layer, shape ``(n, m)``.
        logits: Its outputs, bias included, shape ``(n, d)``.
        targets: Class indices, shape ``(n,)``, or class probabilities, shape ``(n, d)``.
        weight: The layer's weight, shape ``(d, m)``.
        class_weights: As ``weight`` of `torch.nn.CrossEntropyLoss`, shape ``(d,)``.
        ignore_index: As in `torch.nn.CrossEntropyLoss`.
        label_smoothing: As in `torch.nn.CrossEntropyLoss`.
        reduction: ``"mean"`` or ``"sum"``, as the loss has it.

    Returns:
        Shape ``(n,)``; the mean is the batch's value. Differentiable in features, logits, weight.

    Raises:
        LayerError: If the shapes do not fit.
        NotApplicableError: If ``reduction`` is neither of the two.

    Example:
        >>> phi, w = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> cross_entropy_flatness(phi, torch.zeros(1, 2), torch.tensor([0]), w)  # p = 1/2, 1/2
        tensor([2.5000])
    """
    _check_shapes(features, logits, weight)
    scale = _sample_scale(logits, targets, class_weights, ignore_index, label_smoothing, reduction)
    p = logits.softmax(1)
    top = logits.argmax(1, keepdim=True)
    centre = weight[top[:, 0]]  # (n, m)
    # p without its largest entry, whose part follows from the others: 1 - p would lose digits.
    rest = p.scatter(1, top, 0.0)
    energy = weight.square().sum(1)
    distance = (energy + energy[top] - 2 * centre @ weight.T).clamp(min=0)  # (n, d)
    offset = rest @ weight - rest.sum(1, keepdim=True) * centre
    spread = (rest * distance).sum(1) - offset.square().sum(1)
    return scale * features.square().sum(1) * spread


def _check_shapes(features: Tensor, logits: Tensor, weight: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (features, logits, weight)]
    if any(len(shape) != 2 for shape in shapes) or shapes != [
        (len(logits), weight.shape[1]),
        (len(logits), weight.shape[0]),
        tuple(weight.shape),
    ]:
        raise LayerError(
            "features, logits and weight must have shapes (n, m), (n, d) and (d, m), got "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}."
        )


def _sample_scale(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> Tensor:
    """Return n times the weight of sample i's terms -log p_s in the reduced loss."""
    if reduction not in ("mean", "sum"):
        raise NotApplicableError(f'reduction must be "mean" or "sum", got {reduction!r}.')
    n, d = logits.shape
    w = logits.new_ones(d) if class_weights is None else class_weights.to(logits)
    if targets.ndim == 2:
        soft = targets * (1 - label_smoothing) + label_smoothing / d
        total = (soft * w).sum(1)
        return total if reduction == "mean" else n * total
    kept = targets != ignore_index
    own = w[targets.where(kept, torch.zeros_like(targets))] * kept
    total = (1 - label_smoothing) * own + label_smoothing * w.mean() * kept
    return n * total / own.sum() if reduction == "mean" else n * total


def closed_form(loss: object) -> ClosedForm | None:
    """Return the closed form of a loss, if any: ``f(features, logits, targets, weight)``."""
    if loss is F.cross_entropy:
        return cross_entropy_flatness
    # A subclass may compute anything: the very class alone.
    if type(loss) is not torch.nn.CrossEntropyLoss or loss.reduction == "none":
        return None
    return functools.partial(
        cross_entropy_flatness,
        class_weights=loss.weight,
        ignore_index=loss.ignore_index,
        label_smoothing=loss.label_smoothing,
        reduction=loss.reduction,
    )
