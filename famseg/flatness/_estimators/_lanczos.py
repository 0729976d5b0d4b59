"""The largest eigenvalue of a symmetric matrix that is given by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_BASIS_NUMBERS = 2**26  # 256 MB of basis vectors in float32
_BASIS_VECTORS = 12  # with fewer, restarts lose more than they save


class EigenPair(NamedTuple):
    r"""An approximate eigenpair at the upper end of a spectrum.

    Attributes:
        value: The Ritz value :math:`\theta`, at most the largest eigenvalue.
        vector: The unit vector :math:`x` with :math:`\theta = x^\top A x`, shape ``(N,)``.
        residual: :math:`\lVert A x - \theta x\rVert`: an eigenvalue is that close to the value.
        iterations: Number of products with the matrix.
        converged: Whether the residual fell below the tolerance.
    """

    value: float
    vector: Tensor
    residual: float
    iterations: int
    converged: bool


@torch.no_grad()
def largest_pair(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    basis_vectors: int | None = None,
) -> EigenPair:
    r"""Return the algebraically largest eigenvalue of a symmetric matrix, with its vector.

    Lanczos' method with full reorthogonalization and thick restarts (Wu and Simon, *Thick-restart
    Lanczos method for large symmetric eigenvalue problems*, SIAM J. Matrix Anal. 2000). Unlike
    power iteration, it finds the largest eigenvalue instead of the largest in modulus without a
    shift, so negative curvature does not mislead it.

    It ends when the residual is at most ``tolerance * |value|`` or nothing but rounding (in
    proportion to the largest modulus seen), when the space is exhausted, or after
    ``max_iterations``. Memory: the basis, at most ``basis_vectors * N`` numbers.

    Args:
        product: Returns the matrix times a vector of shape ``(N,)``.
        start: A random vector, shape ``(N,)``; it must have a part along the eigenvector.
        tolerance: See above.
        max_iterations: Most products to take, at least 1.
        basis_vectors: Most vectors to keep; by default what fits into 256 MB in float32.

    Example:
        >>> import torch
        >>> matrix = torch.diag(torch.tensor([2.0, -5.0]))
        >>> start = torch.ones(2)
        >>> pair = largest_pair(lambda v: matrix @ v, start, tolerance=1e-6, max_iterations=5)
        >>> round(pair.value, 4)  # power iteration would find -5
        2.0
    """
    size = len(start)
    wanted = basis_vectors or max(_BASIS_VECTORS, _BASIS_NUMBERS // size)
    most = min(size, max_iterations, wanted)
    basis = start.new_zeros(most, size)
    projected = torch.zeros(most, most, dtype=torch.float64)
    rounding = 10 * torch.finfo(start.dtype).eps
    following, used = start / start.norm(), 0
    for iteration in range(1, max_iterations + 1):
        if used == most:
            used = _restart(basis, projected)
        basis[used] = following
        image = product(following)
        rest, along = _orthogonalized(image, basis[: used + 1])
        column = along.cpu().double()
        projected[used, : used + 1] = projected[: used + 1, used] = column
        used += 1
        length = rest.norm().item()
        if not (column.isfinite().all() and length < float("inf")):
            return EigenPair(float("nan"), following, float("nan"), iteration, converged=False)
        values, vectors = torch.linalg.eigh(projected[:used, :used])
        value, coordinates = values[-1].item(), vectors[:, -1]
        residual = length * abs(coordinates[-1].item())
        floor = rounding * values.abs().max().item()
        done = residual <= max(tolerance * abs(value), floor) or used == size
        if done or iteration == max_iterations:
            break
        following = rest / length
    vector = coordinates.to(basis) @ basis[:used]
    return EigenPair(value, vector / vector.norm(), residual, iteration, converged=done)


def _orthogonalized(image: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Split a vector into its part orthogonal to a basis and its coordinates in the basis."""
    along = basis @ image
    rest = image - along @ basis
    again = basis @ rest  # "twice is enough" in floating point (Kahan, Parlett)
    return rest - again @ basis, along + again


def _restart(basis: Tensor, projected: Tensor) -> int:
    """Shrink the basis to the Ritz vectors of its upper half and return their number."""
    values, vectors = torch.linalg.eigh(projected)
    kept = max(1, len(values) // 2)
    basis[:kept] = vectors[:, -kept:].T.to(basis) @ basis
    projected.zero_()
    projected[:kept, :kept] = values[-kept:].diag()
    return kept
