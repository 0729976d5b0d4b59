r"""The spread of a head's rows under its softmax probabilities, as one autograd function.

Under cross-entropy the trace in the closed form is a sum over pairs of classes,

.. math:: \operatorname{tr}(W^\top (\operatorname{diag} p - p p^\top) W)
    = \tfrac12 \sum_{s,t} p_s p_t \lVert w_s - w_t\rVert^2 = p^\top D p, \qquad
    D_{st} = \tfrac12 \lVert w_s - w_t\rVert^2

and that of the simplified form, :math:`\sum_s p_s (1 - p_s)`, is the same with 1 in place of
:math:`D_{st}` for two different classes. No term is negative, so nothing cancels when the network
is confident and the sum is tiny. A step calls this once. On short steps the number of operations
matters more than their size; value and gradient take about a dozen each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Number of multiplications that cost less than the dozen operations they would save.
_SMALL = 2**21
# Pairs of classes cost 2 d^2 (n + m), the other method about 6 n d m: equal at a factor 3 to 4.
_RATIO = 3


def softmax_flatness(
    features: Tensor, logits: Tensor, weight: Tensor, scale: Tensor, *, simplified: bool
) -> Tensor:
    r"""Return :math:`a_i \lVert\phi_i\rVert^2\, p_i^\top D p_i` of each sample.

    It is computed from pairs of classes, ``O(d^2 (n + m))``, if that is small or cheaper than the
    head itself (``O(n d m)``). Otherwise it is computed around each sample's most likely class in
    ``O(n d m)`` time and ``O(n (d + m))`` memory, so that a large vocabulary needs no matrix of
    pairs.

    Args:
        features: Inputs of the head, shape ``(n, m)``.
        logits: Its outputs, shape ``(n, d)``.
        weight: Its weight, shape ``(d, m)``.
        scale: ``a``, shape ``(n,)``.
        simplified: Whether ``D`` is :math:`\lVert W\rVert_F^2` for any two classes.

    Returns:
        Shape ``(n,)``, differentiable in all four, as often as one likes; in the precision of the
        weight, also under autocast.
    """
    if _autocasts(weight):  # half precision keeps only two or three digits
        with torch.autocast(weight.device.type, enabled=False):
            return softmax_flatness(features, logits, weight, scale, simplified=simplified)
    features, logits, scale = (x.to(weight.dtype) for x in (features, logits, scale))
    (n, m), d = features.shape, len(weight)
    if _by_pairs(n, d, m) and not _transformed():
        values: Tensor = _Pairs.apply(features, logits, weight, scale, simplified)  # type: ignore[no-untyped-call]
        return values
    spread = _uncertainty(logits, weight) if simplified else _around_likeliest(logits, weight)
    return scale * features.square().sum(1) * spread


def _by_pairs(n: int, d: int, m: int) -> bool:
    return d * d * (n + m) <= _SMALL or d * (n + m) <= _RATIO * n * m


def _transformed() -> bool:
    """Return whether a transform is active that does not support autograd functions."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _autocasts(tensor: Tensor) -> bool:
    device = tensor.device.type
    # Torch 2.11 cannot trace the first check; the devices that it compiles for support autocast.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
    return available and torch.is_autocast_enabled(device)


class _Pairs(torch.autograd.Function):
    """Computes the values from all pairs of classes."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        features: Tensor,
        logits: Tensor,
        weight: Tensor,
        scale: Tensor,
        simplified: bool,
    ) -> Tensor:
        centered, distances = _distances(weight, simplified=simplified)
        distances.clamp_(min=0)
        p = logits.softmax(1)
        pull = p @ distances  # (n, d): the mean distance of each class to all classes
        spread = (p * pull).sum(1, keepdim=True)
        size = features.square().sum(1, keepdim=True)
        energy = weight.square().sum() if simplified else None
        ctx.simplified = simplified
        ctx.save_for_backward(
            features, logits, weight, scale, p, pull, spread, size, centered, energy
        )
        values = scale * (size * spread)[:, 0]
        return values if energy is None else values * energy

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        features, logits, weight, scale, *rest = ctx.saved_tensors
        if _autocasts(weight):
            with torch.autocast(weight.device.type, enabled=False):
                return _Pairs.backward(ctx, slope)
        if torch.is_grad_enabled():  # the gradient will be differentiated
            centered, distances = _distances(weight, simplified=ctx.simplified)
            p = logits.softmax(1)
            pull = p @ distances
            spread = (p * pull).sum(1, keepdim=True)
            size = features.square().sum(1, keepdim=True)
            energy = weight.square().sum() if ctx.simplified else None
        else:
            p, pull, spread, size, centered, energy = rest
        in_features, in_logits, in_weight, in_scale, _ = ctx.needs_input_grad
        of_scale = of_features = of_logits = of_weight = None
        if in_scale:
            of_scale = slope * (size * spread)[:, 0]
            of_scale = of_scale if energy is None else of_scale * energy
        twice = (2 * slope * scale).unsqueeze(1)
        if in_weight and energy is not None:
            of_weight = (twice * size * spread).sum() * weight
        if energy is not None:
            twice = twice * energy
        if in_features:
            of_features = twice * spread * features
        share = twice * size * p
        if in_logits:
            of_logits = share * (pull - spread)
        if in_weight and energy is None:
            # The gradient in the rows is the graph Laplacian of `joint`.
            joint = (share.mT @ p).fill_diagonal_(0)
            of_weight = joint.sum(1, keepdim=True) * centered - joint @ centered
        return of_features, of_logits, of_weight, of_scale, None


def _distances(weight: Tensor, *, simplified: bool) -> tuple[Tensor, Tensor]:
    """Return the centered rows, and ``D`` up to rounding, shape ``(d, d)``, its diagonal 0."""
    if simplified:
        return weight, weight.new_ones(len(weight), len(weight)).fill_diagonal_(0)
    # The mean row has no spread, but its magnitude would cost digits of the differences.
    centered = weight - weight.mean(0)
    gram = centered @ centered.mT
    half = gram.diagonal() / 2
    return centered, (half.unsqueeze(1) + half - gram).fill_diagonal_(0)


def _around_likeliest(logits: Tensor, weight: Tensor) -> Tensor:
    r"""Return :math:`p^\top D p`, shape ``(n,)``, without a matrix of pairs.

    When the network is confident, :math:`\sum_s p_s \lVert w_s\rVert^2 - \lVert W^\top p\rVert^2`
    suffers from cancellation; the rows are therefore taken relative to that of the most likely
    class.
    """
    top = logits.argmax(1, keepdim=True)
    # p without its largest entry, which follows from the others, since 1 - p would lose digits.
    rest = logits.softmax(1).scatter(1, top, 0.0)
    weight = weight - weight.mean(0)
    center = weight[top[:, 0]]  # (n, m)
    energy = weight.square().sum(1)
    distance = (energy + energy[top] - 2 * center @ weight.T).clamp(min=0)  # (n, d)
    offset = rest @ weight - rest.sum(1, keepdim=True) * center
    return (rest * distance).sum(1) - offset.square().sum(1)


def _uncertainty(logits: Tensor, weight: Tensor) -> Tensor:
    r"""Return :math:`\lVert W\rVert_F^2 \sum_s p_s (1 - p_s)`, shape ``(n,)``."""
    p = logits.softmax(1)
    top = logits.argmax(1, keepdim=True)
    rest = p.scatter(1, top, 0.0)
    uncertain = p.gather(1, top)[:, 0] * rest.sum(1) + (rest * (1 - rest)).sum(1)
    return weight.square().sum() * uncertain
