r"""Estimators of relative flatness by second derivatives in the outputs of the layer.

The layer computes :math:`z = W\phi`, and during the pass a leaf of zeros is added to :math:`z`.
With :math:`H` the Hessian of the batch loss in that leaf,

.. math:: \kappa = \sum_{i,j} \langle\phi_i, \phi_j\rangle \operatorname{tr}(W^\top H_{ij} W)

which is the definition after the chain rule. So the loss is the loss of training and the body
runs once. Directions are made of ``W`` and the features themselves, nothing is detached: one
``backward`` on a result gives the full gradient (the paper's terms I and II) in every parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from famseg.flatness._derivatives import gradient

Draw = Callable[[tuple[int, ...], Tensor], Tensor]
"""Draws signs of a shape, in the type and on the device of the tensor given beside it."""


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass, ready to be differentiated.

    Attributes:
        loss: The batch loss, a scalar.
        features: Inputs of the layer, shape ``(n, ..., m)``.
        output: Outputs of the layer as the rest of the network received them, ``(n, ..., d)``.
        weight: Its weight, shape ``(d, m)``.
        shift: The leaf of zeros that was added to its outputs, ``(n, ..., d)``.
        is_output: Whether the layer's output is, unchanged, what the loss was given.
    """

    loss: Tensor
    features: Tensor
    output: Tensor
    weight: Tensor
    shift: Tensor
    is_output: bool


def columns(run: Pass, *, create_graph: bool = True) -> Tensor:
    r"""Return the exact values of samples that do not interact.

    .. math:: \kappa_i = \lVert\phi_i\rVert^2 \operatorname{tr}(W^\top H_i W),
        \qquad H_i = n\, \partial^2 L / \partial z_i^2

    from ``min(d, m)`` Hessian-vector products, each for all samples at once: along the columns of
    ``W``, or, where there are fewer neurons than features, along the neurons, contracted with
    ``W W^T``.

    Args:
        run: The pass; features of shape ``(n, m)``.
        create_graph: Whether the result can be differentiated.

    Returns:
        Shape ``(n,)``; the mean is the batch's value.
    """
    d, m = run.weight.shape
    slope = gradient(run.loss, run.shift, create_graph=True)
    if m <= d:
        directions = readers = run.weight.T
    else:
        directions = torch.eye(d, dtype=slope.dtype, device=slope.device)
        readers = run.weight @ run.weight.T
    trace = slope.new_zeros(len(slope))
    for direction, reader in zip(directions, readers, strict=True):
        row = gradient((slope @ direction).sum(), run.shift, create_graph=create_graph)  # (n, d)
        trace = trace + row @ reader
    return len(slope) * run.features.square().sum(1) * trace


def sample_probes(run: Pass, draw: Draw, *, probes: int = 1, create_graph: bool = True) -> Tensor:
    r"""Return unbiased estimates for samples that do not interact, each with probes of its own.

    .. math:: \kappa_i \approx \lVert\phi_i\rVert^2\, \xi_i^\top W^\top H_i W \xi_i

    with signs :math:`\xi_i \in \{-1, 1\}^m`, one Hessian-vector product a probe. The expectation is
    that of `columns` since :math:`E\,\xi\xi^\top = I` (Hutchinson 1990); the errors of the samples
    are independent and average out.

    Args:
        run: The pass; features of shape ``(n, m)``.
        draw: Draws the signs.
        probes: Number of probes, their mean is taken.
        create_graph: Whether the result can be differentiated.

    Returns:
        Shape ``(n,)``; the mean is the batch's estimate.
    """
    slope = gradient(run.loss, run.shift, create_graph=True)
    curvature = slope.new_zeros(len(slope))
    for xi in draw((probes, *run.features.shape), slope):
        direction = xi @ run.weight.T  # (n, d)
        row = gradient((slope * direction).sum(), run.shift, create_graph=create_graph)
        curvature = curvature + (row * direction).sum(1)
    return len(slope) * run.features.square().sum(1) * curvature / probes


def batch_probes(run: Pass, draw: Draw, *, probes: int = 1, create_graph: bool = True) -> Tensor:
    r"""Return an unbiased estimate of the batch's value, whether or not samples interact.

    .. math:: \kappa \approx \operatorname{vec}(WZ)^\top \nabla^2_W L \operatorname{vec}(WZ)

    with ``Z`` an ``m x m`` matrix of signs: the outputs move along :math:`W Z \phi`. One
    Hessian-vector product a probe. All positions that the layer is applied to count, so features
    may have any leading shape.

    Args:
        run: The pass; features of shape ``(n, ..., m)``.
        draw: Draws the signs.
        probes: Number of probes, their mean is taken.
        create_graph: Whether the result can be differentiated.

    Returns:
        A scalar.
    """
    m = run.weight.shape[1]
    slope = gradient(run.loss, run.shift, create_graph=True)
    curvature = torch.zeros_like(run.loss)
    for z in draw((probes, m, m), slope):
        direction = run.features @ (run.weight @ z).T  # (n, ..., d)
        row = gradient((slope * direction).sum(), run.shift, create_graph=create_graph)
        curvature = curvature + (row * direction).sum()
    return curvature / probes


def exact(run: Pass, *, create_graph: bool = True) -> Tensor:
    r"""Return the batch's exact value, whether or not samples interact.

    .. math:: \kappa = \sum_{s,k} \langle (WW^\top)_s,\; (H v_{sk})^\top \phi_{\cdot k} \rangle,
        \qquad v_{sk} = \phi_{\cdot k} e_s^\top

    from ``d * m`` Hessian-vector products: for small layers, and as a reference that runs on the
    very pass of training.

    Args:
        run: The pass; features of shape ``(n, ..., m)``.
        create_graph: Whether the result can be differentiated.

    Returns:
        A scalar.
    """
    d, m = run.weight.shape
    slope = gradient(run.loss, run.shift, create_graph=True).reshape(-1, d)
    features = run.features.reshape(-1, m)
    gram = run.weight @ run.weight.T
    kappa = torch.zeros_like(run.loss)
    for s in range(d):
        for k in range(m):
            row = gradient(slope[:, s] @ features[:, k], run.shift, create_graph=create_graph)
            kappa = kappa + gram[s] @ (row.reshape(-1, d).T @ features[:, k])
    return kappa
