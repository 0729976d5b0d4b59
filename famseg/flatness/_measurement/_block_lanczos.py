"""Several eigenpairs at one end of the spectrum of a symmetric matrix given by its products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from famseg.flatness._measurement._trace import Probes, Product

Which = Literal["magnitude", "largest", "smallest"]

_BASIS_NUMBERS = 2**26  # 256 MB of basis vectors in float32
_BASIS_VECTORS = 200  # with more, the projected matrix would cost more than restarts
_BLOCKS = 4  # with fewer, restarts lose more than they save

_ORDER: dict[Which, Callable[[Tensor], Tensor]] = {
    "magnitude": torch.abs,
    "largest": lambda values: values,
    "smallest": torch.neg,
}


class Pairs(NamedTuple):
    r"""Approximate eigenpairs.

    Attributes:
        values: Ritz values in the requested order, shape ``(k,)``, float64, on the CPU.
        vectors: Orthonormal Ritz vectors, shape ``(k, N)``.
        residuals: :math:`\lVert A x - \theta x\rVert` of each, shape ``(k,)``, float64, on the CPU.
        converged: Which residuals are within the tolerance, shape ``(k,)``.
        products: Number of products computed.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor
    products: int


@torch.no_grad()
def extreme_pairs(
    product: Product,
    probes: Probes,
    count: int,
    *,
    which: Which,
    tolerance: float,
    max_products: int,
    basis_vectors: int | None = None,
) -> Pairs:
    r"""Return some eigenpairs at an end of the spectrum.

    Block Lanczos with full reorthogonalization and thick restarts: Rayleigh-Ritz on the span of
    :math:`X, AX, A^2X, \dots` with a block :math:`X` of ``count`` random vectors (Golub and
    Underwood, *The block Lanczos method for computing eigenvalues*, 1977). With a single vector, a
    repeated eigenvalue is found only once; a block of ``count`` vectors finds all copies that can
    be among the requested pairs. It also computes its products together, which is efficient if each
    one runs a network.

    It ends when each residual is at most ``tolerance * |value|`` or only rounding error, when the
    space is exhausted, or before ``max_products`` would be exceeded. A residual bounds the distance
    from the value to an eigenvalue. It does not prove that no eigenvalue lies farther out, but a
    random block has a component along each eigenvector, and the outer ones grow with each product.

    Args:
        product: The matrix.
        probes: Draws random vectors.
        count: Number of pairs, at most ``N``.
        which: End of the spectrum: the largest in magnitude, the largest or the smallest.
        tolerance: See above.
        max_products: Most products, at least ``count``.
        basis_vectors: Most vectors to keep, four blocks at least; by default up to 200 of what fits
            into 256 MB in float32.
    """
    block = torch.linalg.qr(probes(count).T).Q.T
    size = block.shape[1]
    wanted = basis_vectors or min(_BASIS_VECTORS, _BASIS_NUMBERS // size)
    most = min(size, max(wanted, _BLOCKS * count))
    basis = block.new_zeros(most, size)
    projected = torch.zeros(most, most, dtype=torch.float64)
    rounding, used, products = 10 * torch.finfo(block.dtype).eps, 0, 0
    while True:
        width = len(block)
        if used + width > most:
            used = _restart(basis[:used], projected[:used, :used], which)
        basis[used : used + width] = block
        rest, along = _split(product(block), basis[: used + width])
        products, used = products + width, used + width
        projected[used - width : used, :used] = along.cpu().double()
        projected[:used, used - width : used] = projected[used - width : used, :used].T.clone()
        values, coordinates = torch.linalg.eigh(projected[:used, :used])
        chosen = _ORDER[which](values).argsort(descending=True)[:count]
        values, theta, coordinates = values.abs(), values[chosen], coordinates[:, chosen]
        # Only the image of the last block has a component outside the basis.
        outside = coordinates[-width:].T.to(rest) @ rest
        residuals = outside.cpu().double().norm(dim=1)  # squares may underflow in float32
        floor = rounding * values.max().item()
        converged = residuals <= (tolerance * theta.abs()).clamp(min=floor)
        following = min(width, size - used)
        if following == 0 or converged.all() or products + following > max_products:
            break
        block = _continued(rest[:following], basis[:used], floor, probes)
    return Pairs(theta, coordinates.T.to(basis) @ basis[:used], residuals, converged, products)


def _continued(rest: Tensor, basis: Tensor, floor: float, probes: Probes) -> Tensor:
    """Return orthonormal rows that span the part outside a basis, or random ones if it is zero."""
    q, triangle = torch.linalg.qr(rest.T)
    nothing = triangle.diagonal().abs() <= floor
    block = torch.where(nothing[:, None], probes(len(rest)), q.T)
    for _ in range(2):
        block = torch.linalg.qr(_split(block, basis)[0].T).Q.T
    return block


def _restart(basis: Tensor, projected: Tensor, which: Which) -> int:
    """Shrink a basis to the better half of its Ritz vectors and return their number."""
    values, vectors = torch.linalg.eigh(projected)
    kept = _ORDER[which](values).argsort(descending=True)[: len(values) // 2]
    basis[: len(kept)] = vectors[:, kept].T.to(basis) @ basis
    projected.zero_()
    projected[: len(kept), : len(kept)] = values[kept].diag()
    return len(kept)


def _split(image: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Split rows into parts orthogonal to a basis and coordinates in it, ``(k, used)``."""
    along = image @ basis.T
    rest = image - along @ basis
    again = rest @ basis.T  # "twice is enough" in floating point (Kahan, Parlett)
    return rest - again @ basis, along + again
