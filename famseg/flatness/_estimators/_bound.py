"""Bounds that prevent an objective with a possibly negative penalty from diverging."""

from __future__ import annotations

from typing import Literal, assert_never

from torch import Tensor

Bound = Literal["positive", "batch_positive", "absolute", "none"]
BOUNDS: dict[Bound, str] = {
    "positive": "negative samples count as 0",
    "batch_positive": "a negative value counts as 0",
    "absolute": "negative samples count as positive ones",
    "none": "negative values count in full",
}
"""Description of each bound."""


def bounded(kappa: Tensor, bound: Bound, *, ceiling: float | None = None) -> Tensor:
    """Return the batch value of a penalty that cannot fall below zero.

    Relative flatness is negative where the loss is concave in the layer's outputs (a Dice loss
    often is). Minimizing it without a bound rewards more and more negative curvature: in
    ``benchmarks/bounds.py`` (3D autoencoder, Dice, lambda 1) it diverged to a value of -409 and an
    objective of -1985, and the test Dice fell to 0.12. The three bounds hold the same run at 0.57
    to 0.60. They differ little there; ``"positive"`` is the default since the batch value is a mean
    over samples. It is kappa itself where no sample is negative, as on a last layer under a convex
    loss, and above it elsewhere (on a middle layer, 1.5 times kappa is common), the more so the
    noisier a sample's estimate is (0.195 for 0.165 at the weights of the run with lambda 0.1).

    Args:
        kappa: The samples' values, shape ``(n,)``, or the value of the batch, a scalar.
        bound: ``"positive"`` is the mean of the samples' positive parts, which does not depend on
            how a batch is split over processes or accumulated; of a batch value, its positive part.
            ``"batch_positive"`` is the positive part of the mean, ``"absolute"`` the mean of the
            absolute values, ``"none"`` the mean.
        ceiling: Upper limit of the values that the bound is applied to; larger values are clamped
            to it and have no gradient. With it, an objective that rewards sharpness (negative
            lambda) stays at or above the loss minus ``|lambda|`` times the ceiling.

    Returns:
        A scalar. NaN stays NaN.

    Example:
        >>> import torch
        >>> kappa = torch.tensor([3.0, -1.0])
        >>> bounded(kappa, "positive"), bounded(kappa, "none")
        (tensor(1.5000), tensor(1.))
    """
    if bound == "positive":
        return kappa.clamp(min=0, max=ceiling).mean()
    if bound == "batch_positive":
        return kappa.mean().clamp(min=0, max=ceiling)
    if bound == "absolute":
        return kappa.abs().clamp(max=ceiling).mean() if ceiling is not None else kappa.abs().mean()
    if bound == "none":
        return kappa.clamp(max=ceiling).mean() if ceiling is not None else kappa.mean()
    assert_never(bound)
