r"""Largest eigenvalues of a layer's Hessian and of its blocks for single neurons.

The eigenvector is computed without a graph. The value is then its Rayleigh quotient :math:`v^\top H
v` with ``v`` held constant, whose derivative is that of the eigenvalue: :math:`d\lambda = v^\top
dH\, v`, since the quotient is stationary in ``v`` (Magnus, *On differentiating eigenvalues and
eigenvectors*, 1985). Where the largest eigenvalue is repeated it has no derivative, and this is a
subgradient. Nothing is random: a value is exact or, if Lanczos' method ended before it converged,
too low.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from famseg.flatness._errors import FlatnessError
from famseg.flatness._estimators._lanczos import largest_pair
from famseg.flatness._estimators._products import Gradient, quadratic
from famseg.flatness._tracing._uses import Pass, Product, Use, hessian

_BATCHED = 2**24  # numbers in the matrices that are decomposed at once


class LargestEigenvalue(NamedTuple):
    r"""The largest eigenvalue of a layer's Hessian, with its residual.

    Attributes:
        value: The Rayleigh quotient of the vector found, a scalar: a lower bound.
        residual: :math:`\lVert Hv - \lambda v\rVert`; an eigenvalue is that close to the value.
        iterations: Number of Hessian-vector products.
        converged: Whether the residual is at most the tolerance times the value.
    """

    value: Tensor
    residual: float
    iterations: int
    converged: bool


def max_eigenvalue(
    run: Pass,
    use: Use,
    *,
    interact: bool,
    gradient: Gradient = "full",
    create_graph: bool = True,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
) -> Tensor:
    r"""Return the largest-eigenvalue measure of a layer.

    .. math:: \sum_s \lVert w_s\rVert^2\, \lambda_{\max}(H_{ss})

    (Petzka et al., *Relative flatness and generalization*, NeurIPS 2021) with :math:`H_{ss}` the
    Hessian of the batch loss in the weights of neuron ``s`` and the algebraically largest
    eigenvalue. For one feature vector a sample and samples that do not interact,

    .. math:: H_{ss} = \sum_i h_{is}\, \phi_i \phi_i^\top

    with ``h`` from ``d`` Hessian-vector products, and the eigenvalues are exact at
    ``O(d min(n, m)^3)``. Otherwise each neuron takes Lanczos' method, a Hessian-vector product per
    iteration: some ten to thirty times ``d`` products.

    Worked value: where every :math:`H_{ss}` is the identity, :math:`W = ((1, 2), (0, 1))` gives
    :math:`\lVert W\rVert_F^2 = 6`.

    Args:
        run: The pass.
        use: The layer.
        interact: Whether samples may influence each other's loss.
        gradient: ``"full"``, or ``"weights_only"``: the eigenvalues are held constant.
        create_graph: Whether the eigenvalues can be differentiated; the weight's norms always can.
        tolerance: Residual, relative to the eigenvalue, at which Lanczos' method ends.
        max_iterations: Most products for a neuron; it warns where they do not suffice.

    Returns:
        A scalar, differentiable once. NaN where the curvature is not finite.
    """
    if gradient == "weights_only":
        use, create_graph = use.with_constant_features(), False
    energy = use.operator.rows(use.weight).square().sum(-1)  # (g, d)
    product = hessian(run, [use], create_graph=create_graph)
    if use.operator.single and not interact:
        eigenvalues = _separate(use, product)[None]
    else:
        search = hessian(run, [use], create_graph=False) if create_graph else product
        eigenvalues = _blocks(use, search, product, tolerance, max_iterations)
    return (energy * eigenvalues).sum()


def largest_eigenvalue(
    run: Pass,
    use: Use,
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 200,
    generator: torch.Generator | None = None,
    create_graph: bool = False,
) -> LargestEigenvalue:
    r"""Return the largest eigenvalue of a layer's whole Hessian, ``d m x d m``.

    .. math:: \lambda_{\max}(H) = \max_{\lVert v\rVert = 1} v^\top H v

    by Lanczos' method (`famseg.flatness._estimators._lanczos`), one Hessian-vector product per
    iteration, usually some tens of them. The result says whether the iteration converged: a value
    that did not converge is a lower bound and should be shown as one.

    Worked value: the loss :math:`\lVert W\phi\rVert^2 / 2` of one sample has the Hessian
    :math:`I \otimes \phi\phi^\top`, whose largest eigenvalue is :math:`\lVert\phi\rVert^2`: 2 for
    :math:`\phi = (1, 1)`.

    Args:
        run: The pass.
        use: The layer.
        tolerance: Residual, relative to the value, at which the iteration ends.
        max_iterations: Most products.
        generator: Draws the start vector; by default always the same.
        create_graph: Whether the value can be differentiated, once.

    Raises:
        FlatnessError: If ``tolerance`` or ``max_iterations`` is not positive.
    """
    if not tolerance > 0 or max_iterations < 1:
        raise FlatnessError(
            f"largest_eigenvalue needs a tolerance above 0 and max_iterations of at least 1, got "
            f"{tolerance} and {max_iterations}."
        )
    layer = WeightHessian(use, hessian(run, [use], create_graph=False))
    pair = largest_pair(
        lambda v: layer.product(v.view_as(use.weight)).flatten(),
        start_vector(use.weight.numel(), use.weight, generator),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    image = use.operator.apply(use.features, pair.vector.view_as(use.weight))
    product = hessian(run, [use], create_graph=create_graph)
    value = quadratic(product, [image], per_sample=False)
    if not create_graph:
        value = value.detach()
    return LargestEigenvalue(value, pair.residual, pair.iterations, pair.converged)


def _separate(use: Use, product: Product) -> Tensor:
    """Return the largest eigenvalue of each neuron's block if samples do not interact, ``(d,)``."""
    d = use.shift.shape[1]
    axes = torch.eye(d, dtype=use.shift.dtype, device=use.shift.device)
    columns = [product([axis.expand_as(use.shift)])[0][:, s] for s, axis in enumerate(axes)]
    curvature = torch.stack(columns)  # (d, n)
    vectors = _top_vectors(use.features.detach(), curvature.detach())
    return (curvature * (vectors @ use.features.T).square()).sum(1)


@torch.no_grad()
def _top_vectors(features: Tensor, curvature: Tensor) -> Tensor:
    r"""Return for each row ``h`` the top eigenvector of :math:`\Phi^\top \mathrm{diag}(h) \Phi`.

    All of them lie in the span of the features, except eigenvectors of eigenvalue 0, which include
    every vector orthogonal to the span. For these the zero vector is returned, whose quadratic form
    is 0, too. In an orthonormal basis of the span the matrices have the size ``min(n, m)``,
    regardless of the signs of ``h``.

    Args:
        features: Shape ``(n, m)``.
        curvature: Shape ``(d, n)``.

    Returns:
        Shape ``(d, m)``; NaN where ``h`` is not finite.
    """
    n, m = features.shape
    if not (features.isfinite().all() and curvature.isfinite().all()):
        return torch.full_like(features[:1], torch.nan).expand(len(curvature), m)
    basis = torch.linalg.qr(features.T).Q if n < m else None  # (m, n)
    inner = features if basis is None else features @ basis
    together = max(1, _BATCHED // inner.shape[1] ** 2)
    found = []
    for part in torch.split(curvature, together):
        values, vectors = torch.linalg.eigh(inner.T * part[:, None] @ inner)
        top = vectors[:, :, -1]
        if basis is not None:
            top = torch.where(values[:, -1:] > 0, top @ basis.T, 0.0)
        found.append(top)
    return torch.cat(found)


def _blocks(
    use: Use, search: Product, product: Product, tolerance: float, max_iterations: int
) -> Tensor:
    """Return the largest eigenvalue of each neuron's block by Lanczos' method, ``(g, d)``."""
    layer = WeightHessian(use, search)
    groups, d, m = use.operator.rows(use.weight).shape
    start = start_vector(m, use.weight, None)
    found, worst = [], 0.0
    for neuron in range(groups * d):
        place = divmod(neuron, d)
        pair = largest_pair(
            lambda v, place=place: layer.rows(layer.product(layer.kernel(v, place)))[place],  # type: ignore[misc]
            start,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        if not pair.converged:
            worst = max(worst, pair.residual / (abs(pair.value) or 1.0))
        image = use.operator.apply(use.features, layer.kernel(pair.vector, place))
        found.append(quadratic(product, [image], per_sample=False))
    if worst:
        warnings.warn(
            f"layer {use.name!r}: the largest eigenvalue of a neuron did not converge in "
            f"{max_iterations} iterations (residual {worst:.1g} of its value), so the result is "
            "too low.",
            RuntimeWarning,
            stacklevel=2,
        )
    return torch.stack(found).reshape(groups, d)


class WeightHessian:
    """A layer's Hessian in its weight, derived from that in its outputs, without a graph."""

    def __init__(self, use: Use, product: Product) -> None:
        self._use, self._product = use, product
        self._weight = torch.zeros_like(use.weight).detach().requires_grad_()
        with torch.enable_grad():
            self._output = use.operator.apply(use.features.detach(), self._weight)

    def product(self, direction: Tensor) -> Tensor:
        """Return the Hessian times a direction of the weight's shape."""
        operator, features = self._use.operator, self._use.features.detach()
        (row,) = self._product([operator.apply(features, direction)])
        (pulled,) = torch.autograd.grad(self._output, self._weight, row, retain_graph=True)
        return pulled

    def rows(self, weight: Tensor) -> Tensor:
        """Return a weight as rows, shape ``(g, d, m)``."""
        return self._use.operator.rows(weight)

    def kernel(self, row: Tensor, place: tuple[int, int]) -> Tensor:
        """Return a weight that is zero except for one row."""
        rows = torch.zeros_like(self.rows(self._weight.detach()))
        rows[place] = row
        return self._use.operator.kernel(rows)


def start_vector(size: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    source = torch.Generator().manual_seed(0) if generator is None else generator
    numbers = torch.randn(size, generator=source, device=source.device)
    return numbers.to(device=like.device, dtype=like.dtype)
