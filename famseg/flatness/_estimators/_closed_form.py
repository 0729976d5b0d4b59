r"""Relative flatness in closed form, for the outputs of a linear layer under a common loss.

For a loss whose Hessian in the outputs of sample ``i`` is :math:`H_i / n`,

.. math:: \kappa_i = \lVert\phi_i\rVert^2 \operatorname{tr}(W^\top H_i W), \qquad
    \lVert W\rVert_F^2\, \lVert\phi_i\rVert^2 \operatorname{tr} H_i

are relative flatness (Petzka et al., NeurIPS 2021, definition 3) and its simplified form
(Petzka et al. 2019). Where :math:`H_i` is known, no derivatives need to be computed: the values are
exact, and so are their gradients, at about the cost of the layer itself.
"""

from __future__ import annotations

from torch import Tensor

from famseg.flatness._estimators._closed_form_checks import (
    check_classes,
    check_elements,
    check_options,
    check_shapes,
    over,
)
from famseg.flatness._estimators._factor import Quantity
from famseg.flatness._estimators._products import Gradient
from famseg.flatness._estimators._softmax_spread import softmax_flatness


# Many arguments, because it takes those of torch's loss and the layer's features and weight.
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
    quantity: Quantity = "relative_flatness",
    gradient: Gradient = "full",
) -> Tensor:
    r"""Return each sample's relative flatness of a linear head under softmax cross-entropy.

    .. math:: \kappa_i = a_i \lVert\phi_i\rVert^2
        \Bigl(\sum_s p_s \lVert w_s\rVert^2 - \lVert W^\top p\rVert^2\Bigr)

    with :math:`p = \operatorname{softmax}(z_i)` and the Hessian :math:`\operatorname{diag}(p) -
    pp^\top`. :math:`a_i` is the weight of sample ``i`` that results from the options of the loss: 1
    without any, class weights over their mean, 0 where it is ignored. The simplified form has
    :math:`\lVert W\rVert_F^2 (1 - \sum_s p_s^2)` in place of the bracket. Time ``O(n d m)``, memory
    ``O(n (d + m))``. Walter et al. (arXiv 2510.14231) derive it for one sample at the penultimate
    layer.

    The bracket is the spread of the rows of ``W`` under ``p``: half the mean squared distance of
    two rows drawn by ``p``. It is computed from these distances, or, for many classes, around the
    row of the likeliest class (`softmax_flatness`): either keeps its digits where the network is
    sure and the bracket is tiny.

    Args:
        features: Inputs of the layer, shape ``(n, m)``.
        logits: Its outputs, bias included, shape ``(n, d)``.
        targets: Class indices, shape ``(n,)``, or class probabilities, shape ``(n, d)``.
        weight: The layer's weight, shape ``(d, m)``.
        class_weights: As ``weight`` of `torch.nn.CrossEntropyLoss`, shape ``(d,)``.
        ignore_index: As in `torch.nn.CrossEntropyLoss`.
        label_smoothing: As in `torch.nn.CrossEntropyLoss`.
        reduction: ``"mean"`` or ``"sum"``, as the loss has it.
        quantity: ``"relative_flatness"`` or ``"simplified"``.
        gradient: ``"full"``, or ``"weights_only"``: all but ``weight`` is held constant.

    Returns:
        Shape ``(n,)``; the mean is the batch's value. Differentiable in features, logits, weight
        and, where they are probabilities, targets.

    Raises:
        FlatnessError: If shapes do not fit, or an option is none of those above.

    Example:
        >>> import torch
        >>> phi, w = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> cross_entropy_flatness(phi, torch.zeros(1, 2), torch.tensor([0]), w)  # p = 1/2, 1/2
        tensor([2.5000])
    """
    check_options(reduction, quantity, gradient)
    check_shapes(features, logits, weight)
    check_classes(targets, logits)
    if gradient == "weights_only":
        features, logits, targets = features.detach(), logits.detach(), targets.detach()
    logits = logits.to(weight.dtype)  # under autocast they are in half precision
    scale = _sample_scale(logits, targets, class_weights, ignore_index, label_smoothing, reduction)
    return softmax_flatness(features, logits, weight, scale, simplified=quantity == "simplified")


def squared_error_flatness(
    features: Tensor,
    weight: Tensor,
    *,
    reduction: str = "mean",
    quantity: Quantity = "relative_flatness",
    gradient: Gradient = "full",
) -> Tensor:
    r"""Return each sample's relative flatness of a linear layer under squared error.

    .. math:: \kappa_i = \lVert\phi_i\rVert^2\, \tfrac{2}{d} \lVert W\rVert_F^2

    and ``d`` times as much for the simplified form, for the mean over all ``n * d`` elements, whose
    Hessian is :math:`H_i = \tfrac{2}{d} I`; the sum is ``n * d`` times as much. It depends on
    neither outputs nor targets: the penalty shrinks features and weight, whatever is learned. Time
    ``O(n m + d m)``.

    Args:
        features: Inputs of the layer, shape ``(n, m)``.
        weight: The layer's weight, shape ``(d, m)``.
        reduction: ``"mean"`` or ``"sum"``, as `torch.nn.MSELoss` has it.
        quantity: ``"relative_flatness"`` or ``"simplified"``.
        gradient: ``"full"``, or ``"weights_only"``: all but ``weight`` is held constant.

    Returns:
        Shape ``(n,)``; the mean is the batch's value. Differentiable in features and weight.

    Raises:
        FlatnessError: If shapes do not fit, or an option is none of those above.

    Example:
        >>> import torch
        >>> squared_error_flatness(torch.tensor([[3.0, 4.0]]), torch.ones(1, 2))  # 25 * 2/1 * 2
        tensor([100.])
    """
    check_options(reduction, quantity, gradient)
    check_shapes(features, None, weight)
    if gradient == "weights_only":
        features = features.detach()
    curvature = 2.0 * len(features) if reduction == "sum" else 2.0 / len(weight)
    if quantity == "simplified":
        curvature *= len(weight)
    return features.square().sum(1) * (curvature * weight.square().sum())


# Many arguments, because it takes those of torch's loss and the layer's features and weight.
def logistic_flatness(
    features: Tensor,
    logits: Tensor,
    targets: Tensor,
    weight: Tensor,
    *,
    element_weights: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
    quantity: Quantity = "relative_flatness",
    gradient: Gradient = "full",
) -> Tensor:
    r"""Return each sample's relative flatness of a linear layer under binary cross-entropy.

    .. math:: \kappa_i = \lVert\phi_i\rVert^2\, \tfrac{1}{d} \sum_s a_{is}\, p_{is} (1 - p_{is})
        \lVert w_s\rVert^2, \qquad a_{is} = u_{is} (1 + (q_s - 1) y_{is})

    with :math:`p = \sigma(z)`, element weights ``u``, positive weights ``q`` and targets ``y``: the
    Hessian is diagonal, :math:`(H_i)_{ss} = a_{is}\, p_{is} (1 - p_{is}) / d`. The simplified form
    has :math:`\lVert W\rVert_F^2` in place of each :math:`\lVert w_s\rVert^2`. That is for the mean
    over all ``n * d`` elements; the sum is ``n * d`` times as much. Without positive weights the
    targets do not matter. Time ``O(n d + n m + d m)``.

    :math:`p (1 - p)` is computed as :math:`\sigma(z)\, \sigma(-z)`, which keeps its digits.

    Args:
        features: Inputs of the layer, shape ``(n, m)``.
        logits: Its outputs, bias included, shape ``(n, d)``.
        targets: Probabilities, shape ``(n, d)``.
        weight: The layer's weight, shape ``(d, m)``.
        element_weights: As ``weight`` of `torch.nn.BCEWithLogitsLoss`, broadcast to ``(n, d)``.
        pos_weight: As in `torch.nn.BCEWithLogitsLoss`, broadcast to ``(n, d)``.
        reduction: ``"mean"`` or ``"sum"``, as the loss has it.
        quantity: ``"relative_flatness"`` or ``"simplified"``.
        gradient: ``"full"``, or ``"weights_only"``: all but ``weight`` is held constant.

    Returns:
        Shape ``(n,)``; the mean is the batch's value. Differentiable in features, logits, weight
        and, with positive weights, targets.

    Raises:
        FlatnessError: If shapes do not fit, or an option is none of those above.

    Example:
        >>> import torch
        >>> phi, w = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
        >>> logistic_flatness(phi, torch.zeros(1, 2), torch.ones(1, 2), w)  # 25 * 1/2 * 1/4 * 2
        tensor([6.2500])
    """
    check_options(reduction, quantity, gradient)
    check_shapes(features, logits, weight)
    check_elements(targets, logits)
    if gradient == "weights_only":
        features, logits, targets = features.detach(), logits.detach(), targets.detach()
    curvature = logits.sigmoid() * (-logits).sigmoid()
    if pos_weight is not None:
        curvature = over(pos_weight - 1, curvature, "pos_weight") * targets * curvature + curvature
    if element_weights is not None:
        curvature = over(element_weights, curvature, "element_weights") * curvature
    energy = weight.square().sum(1)
    if quantity == "simplified":
        energy = energy.sum().expand(len(weight))
    share = len(logits) if reduction == "sum" else 1 / len(weight)
    return share * features.square().sum(1) * (curvature @ energy)


def _sample_scale(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> Tensor:
    """Return n times the weight of the terms -log p_s of sample i in the reduced loss."""
    n, d = logits.shape
    if class_weights is None and targets.ndim == 1:  # smoothed targets add up to 1, too
        kept = (targets != ignore_index).to(logits.dtype)
        return kept / kept.mean() if reduction == "mean" else n * kept
    w = logits.new_ones(d) if class_weights is None else class_weights.to(logits)
    if targets.ndim == 2:
        soft = targets * (1 - label_smoothing) + label_smoothing / d
        total = (soft * w).sum(1)
        return total if reduction == "mean" else n * total
    kept = targets != ignore_index
    own = w[targets.masked_fill(~kept, 0).long()] * kept
    total = (1 - label_smoothing) * own + label_smoothing * w.mean() * kept
    return n * total / own.sum() if reduction == "mean" else n * total
