"""The spectral density of a symmetric matrix that is given by its products with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from famseg.flatness._measurement._trace import Probes, Product

_BASIS_NUMBERS = 2**26  # 256 MB of basis vectors in float32
_REACH = 5  # margin of the grid beyond the nodes, in widths of the kernel
_SHARE = 0.01  # default width of the kernel, as a share of the range of the nodes


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    r"""The distribution of a matrix's ``N`` eigenvalues by stochastic Lanczos quadrature.

    All tensors are float64 on the CPU. `density` is the density of the eigenvalues convolved with a
    Gaussian of standard deviation `width`; its integral is 1. `nodes` and `weights` are the
    quadrature itself, without smoothing.

    Attributes:
        grid: Points at which the density was computed, ascending, shape ``(points,)``.
        density: The density at these points, averaged over the probes, shape ``(points,)``.
        error: Its standard error over the probes, shape ``(points,)``.
        nodes: Ritz values of each probe, ascending, shape ``(probes, steps)``.
        weights: Their weights, which sum to 1 for each probe, shape ``(probes, steps)``.
        width: Standard deviation of the Gaussian, in the unit of the eigenvalues.
        size: ``N``, the number of eigenvalues.
        products: Number of products computed.
    """

    grid: Tensor
    density: Tensor
    error: Tensor
    nodes: Tensor
    weights: Tensor
    width: float
    size: int
    products: int

    def mean(self, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        r"""Return the mean of a function over the eigenvalues, and its standard error.

        .. math:: \frac1N \operatorname{tr} f(A) \approx \frac1p \sum_{l=1}^{p} \sum_j \tau_j^{(l)}
            f(\theta_j^{(l)})

        (Ubaru, Chen and Saad, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*,
        2017). Unbiased for polynomials of a degree below ``2 * steps``, for which Gauss' quadrature
        is exact: powers give the moments :math:`\operatorname{tr}(A^q) / N`. The standard error is
        over the probes.

        Args:
            function: Takes and returns a tensor of any shape, entry by entry.

        Example:
            >>> one, half = torch.ones(2, 1), torch.full((2, 1), 0.5)
            >>> found = SpectralDensity(one, one, one, half, one, 0.1, size=4, products=2)
            >>> found.mean(torch.square)  # tr(A^2) / N
            (0.25, 0.0)
        """
        values = (self.weights * function(self.nodes)).sum(1)
        return values.mean().item(), _error(values).item()


@torch.no_grad()
def spectral_density(
    product: Product,
    probes: Probes,
    count: int,
    *,
    steps: int,
    points: int,
    width: float | None,
) -> SpectralDensity:
    r"""Return the density of the eigenvalues by stochastic Lanczos quadrature.

    For a unit vector :math:`v` Lanczos' method gives a tridiagonal matrix whose eigenvalues
    :math:`\theta_j` and squared first components of eigenvectors :math:`\tau_j` are Gauss'
    quadrature of the measure :math:`v^\top \delta(\lambda - A)\, v`. With :math:`E\, v v^\top =
    I / N` the mean of that measure is the density of the eigenvalues, so that

    .. math:: \hat p(\lambda) = \frac1p \sum_{l=1}^{p} \sum_j \tau_j^{(l)}\,
        g_\sigma(\lambda - \theta_j^{(l)})

    with :math:`g_\sigma` a Gaussian kernel (Golub and Welsch 1969; Ubaru, Chen and Saad 2017;
    Ghorbani, Krishnan and Xiao, *An investigation into neural net optimization via Hessian
    eigenvalue density*, 2019). The probes are uniform on the sphere. The first ``2 * steps - 1``
    moments are unbiased; the density itself has the resolution of the kernel and of the nodes, of
    which those at the ends of the spectrum are close to eigenvalues.

    Costs ``probes * steps`` products, of all probes together at each step, and full
    reorthogonalization, ``O(probes * steps^2 * N)`` operations; without it eigenvalues would be
    counted more than once. Holds the basis, in groups of probes that fit into 256 MB in float32.

    Args:
        product: The matrix.
        probes: Draws vectors whose direction is uniform on the sphere.
        count: Number of probes.
        steps: Lanczos steps of each; ``N`` at most.
        points: Number of points of the grid.
        width: Standard deviation of the kernel; by default 1 % of the range of the nodes.
    """
    starts = probes(count)
    size = starts.shape[1]
    steps = min(steps, size)
    together = max(1, _BASIS_NUMBERS // (steps * size))
    found = [_tridiagonal(product, part, steps) for part in torch.split(starts, together)]
    nodes, vectors = torch.linalg.eigh(torch.cat(found))
    weights = vectors[:, 0].square()
    low, high = nodes.min().item(), nodes.max().item()
    if width is None:
        # A single eigenvalue has no range, so its magnitude (or 1) determines the width.
        width = _SHARE * ((high - low) or abs(high) or 1.0)
    grid = torch.linspace(low - _REACH * width, high + _REACH * width, points, dtype=torch.float64)
    pairs = zip(nodes, weights, strict=True)
    blurred = torch.stack([weight @ _kernel(grid - node[:, None], width) for node, weight in pairs])
    return SpectralDensity(
        grid, blurred.mean(0), _error(blurred), nodes, weights, width, size, count * steps
    )


def _tridiagonal(product: Product, starts: Tensor, steps: int) -> Tensor:
    """Return the matrices of Lanczos' method for several start vectors, ``(p, steps, steps)``."""
    count, size = starts.shape
    basis = starts.new_zeros(count, steps, size)
    matrix = torch.zeros(count, steps, steps, dtype=torch.float64)
    following = starts / starts.norm(dim=1, keepdim=True)
    scale = starts.new_zeros(count)
    for step in range(steps):
        basis[:, step] = following
        rest = product(following)
        scale = torch.maximum(scale, rest.norm(dim=1))
        matrix[:, step, step] = (rest * following).sum(1).cpu().double()
        for _ in range(2):  # "twice is enough" in floating point (Kahan, Parlett)
            along = basis[:, : step + 1] @ rest[:, :, None]
            rest = rest - (along.mT @ basis[:, : step + 1])[:, 0]
        length = rest.norm(dim=1)
        # An exhausted space is padded with zeros, which give nodes at 0 without weight.
        length = torch.where(length > 10 * torch.finfo(length.dtype).eps * scale, length, 0.0)
        following = torch.where(length[:, None] > 0, rest / length[:, None], 0.0)
        if step + 1 < steps:
            matrix[:, step, step + 1] = matrix[:, step + 1, step] = length.cpu().double()
    return matrix


def _kernel(distance: Tensor, width: float) -> Tensor:
    return (-0.5 * (distance / width).square()).exp() / (width * math.sqrt(2 * math.pi))


def _error(values: Tensor) -> Tensor:
    """Return the standard error of a mean over the first dimension."""
    return values.std(0) / math.sqrt(len(values))
