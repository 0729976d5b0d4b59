r"""Estimators of relative flatness by second derivatives in the outputs of the layers.

A layer computes :math:`z = W\phi`, and during the pass a leaf of zeros is added to :math:`z`. With
:math:`J` the map from a weight to the outputs that it computes from the features and :math:`H` the
Hessian of the batch loss in that leaf,

.. math:: \kappa = \operatorname{tr}\bigl((WW^\top \otimes I_m)\, J^\top H J\bigr)

which is the definition rewritten by the chain rule, for every layer that is linear in its weight.
The loss is therefore that of the training pass, and the network before the layer runs once. With
:math:`A` in place of :math:`W` (see `Factor`) it is the simplified measure.

The full gradient (the paper's terms I and II) of :math:`q = v^\top H v` comes from
:math:`2\, r^\top v - r^\top \bar v` with :math:`r = H \bar v` and :math:`\bar v` the direction
held constant: its value is :math:`q` and its derivative
:math:`2\, r^\top dv + \bar v^\top dH\, \bar v`. Without the graph of ``r``, and from features held
constant, the same expression has only the gradient of term I.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from famseg.flatness._errors import NotApplicableError
from famseg.flatness._estimators._factor import Factor, span
from famseg.flatness._tracing._derivatives import gradient, pullback
from famseg.flatness._tracing._uses import Pass, Product, Use

Draw = Callable[[tuple[int, ...], Tensor], Tensor]
"""Draws independent numbers with mean 0 and variance 1.

Takes a shape, and a tensor whose type and device they get.
"""

Gradient = Literal["full", "weights_only"]


def gauss_newton(run: Pass, uses: Sequence[Use], *, create_graph: bool) -> Product:
    r"""Return the product with the Gauss-Newton curvature.

    .. math:: \hat H = J^\top \nabla^2_{\mathrm{out}} L\, J

    with ``J`` the Jacobian of the model's output ``o`` (Schraudolph 2002). It equals the Hessian
    where the network between layer and output is piecewise linear, and it is positive semidefinite
    where the loss is convex in the output. Elsewhere it is another quantity: the term that it
    leaves out, which more probes do not recover, is

    .. math:: H - \hat H = \sum_k \frac{\partial L}{\partial o_k}\, \nabla^2 o_k

    Worked value: for :math:`L = o^2/2` and :math:`o = z^2` at :math:`z = 1` the Hessian is 6 and
    the Gauss-Newton curvature 4; :math:`\partial L/\partial o \cdot o'' = 2` is left out.

    A product costs two backward passes through the network after the layer and one through the
    loss, and only the loss is ever differentiated three times.

    Args:
        run: The pass.
        uses: The layers in whose outputs directions are given.
        create_graph: Whether products can be differentiated.

    Raises:
        NotApplicableError: If the model's output is not one tensor.
    """
    prediction = run.prediction
    if prediction is None:
        raise NotApplicableError(
            'estimator "gauss_newton" needs a single tensor between model and loss. Name it with '
            'output=, or use estimator="hutchinson".'
        )
    shifts = [use.shift for use in uses]
    slope = gradient(run.loss, prediction, create_graph=True)
    dual = torch.zeros_like(prediction, requires_grad=True)
    pulled = pullback([prediction], shifts, [dual], create_graph=True)

    def product(directions: Sequence[Tensor]) -> Sequence[Tensor]:
        # J v is the derivative of J^T u in u: forward mode by applying reverse mode twice.
        (moved,) = pullback(pulled, [dual], directions, create_graph=create_graph)
        (bent,) = pullback([slope], [prediction], [moved], create_graph=create_graph)
        return pullback([prediction], shifts, [bent], create_graph=create_graph)

    return product


def columns(run: Pass, use: Use, factor: Factor, product: Product) -> Tensor:
    r"""Return the exact values of samples that do not interact.

    .. math:: \kappa_i = \lVert\phi_i\rVert^2 \operatorname{tr}(A^\top H_i A),
        \qquad H_i = n\, \partial^2 L / \partial z_i^2

    (definition 3 of Petzka et al. 2021 after the chain rule) from ``min(d, m)`` Hessian-vector
    products, each for all samples at once: along the columns of ``A``, or, where there are fewer
    neurons than columns, along the neurons, contracted with ``A A^T``. It is exact, without
    variance, since the Hessian of samples that do not interact is block diagonal: one direction for
    all of them gives every :math:`H_i` its own product. For training, the graphs of all products
    are kept.

    Worked value: :math:`L = \lVert z\rVert^2/2` of one sample (:math:`H_1 = I`) with features
    :math:`(1, 1)` and the weight :math:`W = ((1, 2), (0, 1))` gives
    :math:`2 \cdot \lVert W\rVert_F^2 = 12`, the value of the example of `relative_flatness`.

    Args:
        run: The pass.
        use: The layer; features of shape ``(n, m)``.
        factor: Its factor.
        product: The curvature.

    Returns:
        Shape ``(n,)``; the mean is the batch's value.
    """
    _, d, m = factor.shape
    matrix, gram = factor.matrix, factor.gram
    trace = use.shift.new_zeros(len(use.shift))
    if matrix is not None and m <= d:
        for column in matrix[0].T:
            (row,) = product([column.detach().expand_as(use.shift)])
            trace = trace + row @ (2 * column - column.detach())
    else:
        for s, axis in enumerate(torch.eye(d, dtype=trace.dtype, device=trace.device)):
            (row,) = product([axis.expand_as(use.shift)])
            trace = trace + (row[:, s] if gram is None else row @ gram[0, s])
    return factor.scaled(run.samples * use.features.square().sum(1) * trace)


def exact(use: Use, factor: Factor, product: Product) -> Tensor:
    r"""Return the batch's exact value, whether or not samples interact.

    .. math:: \kappa = \sum_{s,k} \langle J\, G e_{sk},\; H J e_{sk} \rangle

    with ``G = A A^T`` acting on the neurons and :math:`e_{sk}` zero but for one entry: definition 3
    of Petzka et al. 2021 as a sum over the entries of the weight. Costs ``d * m`` Hessian-vector
    products, for training with the graphs of all: for small layers, and as a reference that runs on
    the same pass as the training. Worked value: 12 in the example of `columns`.

    Args:
        use: The layer.
        factor: Its factor.
        product: The curvature.

    Returns:
        A scalar.
    """
    operator, gram = use.operator, factor.gram
    kappa = use.shift.new_zeros(())
    for g, s, k in itertools.product(*map(range, factor.shape)):
        unit = use.weight.new_zeros(factor.shape)
        unit[g, s, k] = 1
        image = operator.apply(use.features, operator.kernel(unit))
        (row,) = product([image])
        if gram is not None:
            moved = torch.zeros_like(unit).index_put(_at(g, k, unit), gram[g, :, s])
            image = operator.apply(use.features, operator.kernel(moved))
        kappa = kappa + (row * image).sum()
    return factor.scaled(kappa)


def quadratic(product: Product, directions: Sequence[Tensor], *, per_sample: bool) -> Tensor:
    r"""Return the quadratic form of one direction in all layers together.

    .. math:: q = v^\top H v

    with the full gradient, by the expression at the top of this module. Costs one product. Where
    ``v`` has mean 0 and the covariance :math:`J (A A^\top \otimes I) J^\top`, its expectation is
    the flatness (Hutchinson 1990, *A stochastic estimator of the trace*); the terms between two
    layers, whose directions are independent, have mean 0.

    Worked value: with :math:`H = I`, a feature norm of :math:`\sqrt 2` and the weight
    :math:`W = ((1, 2), (0, 1))`, the probe :math:`x = (1, -1)` has the direction
    :math:`v = \sqrt 2\, W x = \sqrt 2\, (-1, -1)` and :math:`q = 4`; :math:`x = (1, 1)` gives 20.
    Their mean is the flatness, 12.

    Args:
        product: The curvature.
        directions: A direction for each layer, shape ``(n, ...)``.
        per_sample: Whether samples do not interact, and each one's value is wanted.

    Returns:
        Shape ``(n,)`` with the batch's value as the mean, or that value, a scalar.
    """
    rows = product([v.detach() for v in directions])
    parts = [row * (2 * v - v.detach()) for row, v in zip(rows, directions, strict=True)]
    if not per_sample:  # layers may have different numbers of rows
        return torch.stack([part.sum() for part in parts]).sum()
    values = torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)
    return len(values) * values


def sample_direction(use: Use, factor: Factor, draw: Draw) -> Tensor:
    r"""Return a direction of the outputs with separate probes for each sample.

    .. math:: v_i = \lVert\phi_i\rVert\, A\, \xi_i \quad\text{or}\quad v_i = (A\, Z_i) \phi_i

    for layers with one feature vector per sample and for all others, respectively. With entries of
    mean 0 and variance 1 :math:`E\, \xi \xi^\top = I`, so that

    .. math:: E\, v_i^\top H_i v_i = \lVert\phi_i\rVert^2 \operatorname{tr}(A^\top H_i A) = \kappa_i

    is unbiased where samples do not interact (Hutchinson 1990). The errors of the samples are
    independent and average out: with :math:`M_i = \lVert\phi_i\rVert^2 A^\top H_i A` the variance
    of a batch is :math:`2/n^2 \sum_i \lVert M_i\rVert_F^2` for normal probes, and that without the
    diagonals for signs. Costs at most ``n m`` random numbers, for a convolution
    ``n g min(d, m) m``, and as many operations as the layer itself.

    Worked value: for :math:`M = ((2, 1), (1, 3))` the signs :math:`(1, 1)` and :math:`(1, -1)` give
    7 and 3: their mean is the trace, 5, and their variance :math:`2 \cdot (1 + 1) = 4`.

    Args:
        use: The layer.
        factor: Its factor; its scale is applied by the caller.
        draw: Draws the probes.
    """
    groups, d, m = factor.shape
    n = len(use.features)
    # A basis of many rows costs more than the layer itself, and n probes of length m are cheap.
    matrix = factor.matrix if use.operator.single and d > n else factor.reduced
    columns = d if matrix is None else matrix.shape[2]
    if use.operator.single:
        xi = draw((n, columns), use.weight)
        # Avoids the norm itself, which is not differentiable at zero.
        norm = use.features.square().sum(1, keepdim=True).clamp(min=_TINY).sqrt()
        return norm * (xi if matrix is None else xi @ matrix[0].T)
    z = draw((n, groups, columns, m), use.weight)
    kernels = use.operator.kernel(z if matrix is None else matrix @ z)
    return use.operator.apply_each(use.features, kernels)


def batch_direction(use: Use, factor: Factor, draw: Draw) -> Tensor:
    r"""Return a direction of the outputs with one probe for the whole batch.

    .. math:: v = (A Z)\, \phi

    with independent entries of ``Z``. Since
    :math:`E (AZ)_{sj} (AZ)_{tk} = \langle a_s, a_t\rangle \delta_{jk}`, its quadratic form is
    unbiased whether or not samples interact, and whatever positions of a sample the layer is
    applied to (Hutchinson 1990). The variance is :math:`2 \lVert M\rVert_F^2` with
    :math:`M = (A \otimes I)^\top H (A \otimes I)` for normal probes, without the diagonal for
    signs: in addition to the terms of each sample, which are those of `sample_direction`, it has
    terms of all pairs of samples, which do not decrease with their number. Costs ``g min(d, m) m``
    random numbers, or ``n m`` in a small batch of feature vectors, and as many operations as the
    layer itself.

    Args:
        use: The layer.
        factor: Its factor; its scale is applied by the caller.
        draw: Draws the probes.
    """
    groups, d, m = factor.shape
    n = len(use.features)
    if use.operator.single and n < min(d, m):
        # With few feature vectors Z acts only on their span, which is cheaper than the span of the
        # rows.
        basis = span(use.features.detach())
        z = draw((1, d if factor.matrix is None else m, n), use.weight)[0]
        image = z if factor.matrix is None else factor.matrix[0] @ z
        direction: Tensor = (use.features @ basis) @ image.mT
        return direction
    matrix = factor.reduced
    z = draw((groups, d if matrix is None else matrix.shape[2], m), use.weight)
    kernel = use.operator.kernel(z if matrix is None else matrix @ z)
    return use.operator.apply(use.features, kernel)


_TINY = 1e-38  # about the smallest normal number in float32


def _at(group: int, column: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    d = like.shape[1]
    neurons = torch.arange(d, device=like.device)
    return (
        torch.full_like(neurons, group),
        neurons,
        torch.full_like(neurons, column),
    )
