r"""Estimators of the trace of a symmetric matrix that is given by its products with vectors.

They are pure linear algebra, independent of networks. Vectors are rows, so a product takes and
returns shape ``(k, N)``. Probes have :math:`E\, \omega\omega^\top = I`: signs (Rademacher) where
nothing else is needed, since they have the least variance, and normal ones where their direction
must be uniform on the sphere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from famseg.flatness._estimators._probes import Distribution

Product: TypeAlias = Callable[[Tensor], Tensor]
"""A symmetric matrix times each row of ``(k, N)``."""

Probes: TypeAlias = Callable[[int], Tensor]
"""Draws the given number of probes as rows, shape ``(k, N)``."""

TraceMethod = Literal["hutchinson", "hutch++", "xtrace"]


@dataclass(frozen=True)
class TraceEstimate:
    """An estimate of a trace.

    Attributes:
        value: The estimate.
        standard_error: Its standard error over the probes; 0 where the trace is exact.
        method: The estimator, or ``"exact"``.
        products: Number of products computed.
    """

    value: float
    standard_error: float
    method: TraceMethod | Literal["exact"]
    products: int

    def __str__(self) -> str:
        how = f"{self.method}, {self.products} products"
        return f"{self.value:.4g} +- {self.standard_error:.2g} ({how})"


LEAST: dict[TraceMethod, int] = {"hutchinson": 2, "hutch++": 4, "xtrace": 4}
"""Fewest products of each method that give an estimate with a standard error."""


def exact(product: Product, size: int, like: Tensor, *, together: int) -> TraceEstimate:
    r"""Return :math:`\sum_i e_i^\top A e_i` from ``N`` products with unit vectors.

    Args:
        product: The matrix.
        size: ``N``.
        like: A tensor of its type, on its device.
        together: Number of vectors to hold at a time.

    Example:
        >>> import torch
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        >>> exact(lambda v: v @ matrix, 2, matrix, together=1).value
        5.0
    """
    total = 0.0
    for begin in range(0, size, together):
        index = torch.arange(begin, min(begin + together, size), device=like.device)
        units = torch.zeros(len(index), size, dtype=like.dtype, device=like.device)
        units.scatter_(1, index[:, None], 1.0)
        total += product(units).gather(1, index[:, None]).cpu().double().sum().item()
    return TraceEstimate(total, 0.0, "exact", size)


def hutchinson(product: Product, probes: Probes, products: int) -> TraceEstimate:
    r"""Return the mean of quadratic forms of random vectors.

    .. math:: \hat t = \frac1k \sum_{j=1}^{k} \omega_j^\top A\, \omega_j

    Unbiased, since :math:`E\, \omega^\top A \omega = \operatorname{tr}(A\, E\,
    \omega\omega^\top) = \operatorname{tr} A` (Hutchinson, *A stochastic estimator of the trace of
    the influence matrix for Laplacian smoothing splines*, 1990). With signs the variance is
    :math:`\tfrac2k (\lVert A\rVert_F^2 - \sum_i A_{ii}^2)`: the error falls like
    :math:`k^{-1/2}` for every spectrum. Costs ``k`` products and the memory of ``k`` vectors.

    Args:
        product: The matrix.
        probes: Draws the vectors.
        products: ``k``, at least 2.

    Example:
        >>> import torch
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        >>> both = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # the forms are 7 and 3
        >>> hutchinson(lambda v: v @ matrix, lambda k: both[:k], 2).value
        5.0
    """
    omega = probes(products)
    forms = (omega * product(omega)).sum(1)
    return _estimate(0.0, forms, "hutchinson", products)


def hutch_plus_plus(product: Product, probes: Probes, products: int) -> TraceEstimate:
    r"""Return the trace on a sketched subspace, and Hutchinson's estimate of the rest.

    A third of the products is used for a sketch :math:`A\Omega` with orthonormal basis :math:`Q`, a
    third for the trace on its span, and the rest for probes of the remainder. With :math:`P = I -
    QQ^\top`

    .. math:: \hat t = \operatorname{tr}(Q^\top A Q)
        + \frac1k \sum_{j=1}^{k} \omega_j^\top P A P\, \omega_j

    (Meyer, Musco, Musco and Woodruff, *Hutch++: Optimal stochastic trace estimation*, 2021).
    It is unbiased: given :math:`Q`, of which the probes :math:`\omega_j` are independent, the mean
    of the second term is :math:`\operatorname{tr}(PAP)`, which is :math:`\operatorname{tr} A` minus
    the first. For the same reason the spread of the probes gives the standard error. The variance
    is that of Hutchinson's estimator for :math:`PAP`: the large eigenvalues are treated exactly,
    and for a positive semidefinite matrix the error falls like :math:`1 / k` at least. For a flat
    spectrum it is larger than Hutchinson's, which has three times the probes. Costs ``products``
    products and :math:`O(N k^2)` operations; holds some ``products`` vectors.

    Args:
        product: The matrix.
        probes: Draws the vectors.
        products: Total number, at least 4.
    """
    third = products // 3
    basis = torch.linalg.qr(product(probes(third)).T).Q.T  # (third, N)
    inside = (basis * product(basis)).sum().item()
    omega = probes(products - 2 * third)
    outside = omega - (omega @ basis.T) @ basis
    forms = (outside * product(outside)).sum(1)
    return _estimate(inside, forms, "hutch++", products)


def xtrace(product: Product, probes: Probes, products: int) -> TraceEstimate:
    r"""Return the mean of Hutch++ estimates in which each probe is left out of the sketch once.

    From normal probes :math:`\Omega = (\omega_1, \dots, \omega_k)`, with :math:`Q_{(i)}` an
    orthonormal basis of :math:`A\Omega` without its column ``i``, :math:`P_i = I - Q_{(i)}
    Q_{(i)}^\top`, and :math:`\mu_i` the vector :math:`P_i \omega_i` at length
    :math:`\sqrt{N - k + 1}`,

    .. math:: \hat t = \frac1k \sum_{i=1}^{k} t_i, \qquad t_i = \operatorname{tr}(Q_{(i)}^\top A
        Q_{(i)}) + \mu_i^\top A\, \mu_i

    (Epperly, Tropp and Webber, *XTrace: Making the most of every sample in stochastic trace
    estimation*, 2024). Unbiased: :math:`\omega_i` is independent of :math:`Q_{(i)}`, so that
    :math:`\mu_i` is uniform on a sphere in the remaining ``N - k + 1`` dimensions, and :math:`E\,
    \mu_i \mu_i^\top = P_i`. All products serve both purposes, so that the sketch has half of them
    instead of a third as in Hutch++, and the variance is smaller for a decaying spectrum. For a
    flat spectrum it is about twice that of Hutchinson's estimator, and for a multiple of the
    identity it is zero.

    The standard error is :math:`\sqrt{2/k}` times the standard deviation of the terms. The authors
    treat the terms as independent, which gives :math:`\sqrt{1/k}`. However, the interaction of the
    probes ``i`` and ``j`` is part of both :math:`t_i` and :math:`t_j`, which cancels up to half of
    the averaging; in measurements their standard error was too small by factors of 1 to 1.6.

    Costs ``2 k`` products, :math:`A\Omega` and :math:`AQ`, since :math:`Q_{(i)} Q_{(i)}^\top` is
    :math:`Q (I - s_i s_i^\top) Q^\top` with :math:`s_i` the normalized column ``i`` of
    :math:`R^{-\top}`, :math:`A\Omega = QR`; and :math:`O(N k^2)` operations. Holds some ``3 k``
    vectors.

    Args:
        product: The matrix.
        probes: Draws the vectors.
        products: Number of products, at least 4; one is unused if the number is odd.
    """
    k = products // 2
    omega = probes(k)
    image = product(omega)
    basis, triangle = torch.linalg.qr(image.T)
    basis = basis.T  # (k, N)
    inner = (product(basis) @ basis.T).cpu().double()  # Q^T A Q
    along = (basis @ omega.T).cpu().double()  # Q^T Omega
    triangle = triangle.cpu().double()  # Q^T A Omega
    s = _left_out(triangle, torch.finfo(omega.dtype).eps)
    x = along - s * (s * along).sum(0)  # Q x_i is the projection of probe i onto the span of Q_(i)
    lengths, forms = ((omega * other).sum(1).cpu().double() for other in (omega, image))
    outside = lengths - x.square().sum(0)
    forms = forms - 2 * (x * triangle).sum(0) + _forms(inner, x)
    forms *= (omega.shape[1] - k + 1) / outside
    terms = inner.trace() - _forms(inner, s) + forms
    error = math.sqrt(2 / k) * terms.std().item()
    return TraceEstimate(terms.mean().item(), error, "xtrace", 2 * k)


METHODS: dict[TraceMethod, Callable[[Product, Probes, int], TraceEstimate]] = {
    "hutchinson": hutchinson,
    "hutch++": hutch_plus_plus,
    "xtrace": xtrace,
}
PROBES: dict[TraceMethod, Distribution] = {
    "hutchinson": "rademacher",
    "hutch++": "rademacher",
    "xtrace": "gaussian",
}
"""The probes that each method needs."""


def _left_out(triangle: Tensor, rounding: float) -> Tensor:
    """Return the unit vectors ``s_i`` as columns, shape ``(k, k)``.

    A sketch of lower rank has diagonal entries that are zero up to rounding. Their replacement is
    arbitrary, since ``s_i`` then lies in the null space of the matrix.
    """
    largest = triangle.abs().max()
    triangle = triangle / largest.where(largest > 0, torch.ones_like(largest))
    diagonal = triangle.diagonal()
    triangle = triangle + torch.where(diagonal.abs() < rounding, rounding - diagonal, 0.0).diag()
    identity = torch.eye(len(triangle), dtype=triangle.dtype, device=triangle.device)
    inverse = torch.linalg.solve_triangular(triangle, identity, upper=True).T
    normalized: Tensor = inverse / inverse.norm(dim=0)
    return normalized


def _forms(matrix: Tensor, columns: Tensor) -> Tensor:
    return (columns * (matrix @ columns)).sum(0)


def _estimate(known: float, forms: Tensor, method: TraceMethod, products: int) -> TraceEstimate:
    forms = forms.cpu().double()
    error = forms.std().item() / math.sqrt(len(forms))
    return TraceEstimate(known + forms.mean().item(), error, method, products)
