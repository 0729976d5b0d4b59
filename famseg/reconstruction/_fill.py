"""A smooth surface over a map: a thin plate with a little tension, tied to data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import linalg

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def fill(values: Array, weights: Array, use: Mask, pixel_mm: float, *, tension: float) -> Array:
    r"""Return the surface that bends least, near the data.

    Minimizes, over the pixels in ``use``,

    .. math:: \int |D^2 f|^2 + t |\nabla f|^2 + w (f - d)^2

    with lengths in mm, so that the answer does not depend on the size of pixels. A plate without
    tension overshoots where the defect is wide. One sparse factorization serves all channels:
    about 0.3 s for 20,000 pixels.

    Args:
        values: Data ``d``, shape ``(..., N, N)``; ignored where the weight is 0.
        weights: ``w`` in mm^-4, shape ``(N, N)``, not negative.
        use: Pixels of the surface.
        pixel_mm: Edge of a pixel.
        tension: ``t`` in mm^-2.

    Returns:
        ``f``, shape ``(..., N, N)``, NaN outside ``use``.
    """
    index = np.full(use.shape, -1)
    count = int(use.sum())
    index[use] = np.arange(count)
    matrix = sparse.diags_array(weights[use] * pixel_mm**2 + 1e-9)
    for stencil, factor in _BENDING:
        rows = _rows(index, stencil, count)
        matrix = matrix + rows.T @ rows * (factor / pixel_mm**2)
    for stencil in _SLOPE:
        rows = _rows(index, stencil, count)
        matrix = matrix + rows.T @ rows * tension
    data = np.where(weights[use] > 0, values[..., use], 0.0) * weights[use] * pixel_mm**2
    solver = linalg.splu(
        matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}
    )
    filled = np.full(values.shape, np.nan)
    filled[..., use] = solver.solve(data.T).T
    return filled


_BENDING = (
    ({(-1, 0): 1.0, (0, 0): -2.0, (1, 0): 1.0}, 1.0),
    ({(0, -1): 1.0, (0, 0): -2.0, (0, 1): 1.0}, 1.0),
    ({(0, 0): 1.0, (1, 0): -1.0, (0, 1): -1.0, (1, 1): 1.0}, 2.0),
)
_SLOPE = ({(0, 0): -1.0, (1, 0): 1.0}, {(0, 0): -1.0, (0, 1): 1.0})


def _rows(
    index: NDArray[np.int64], stencil: dict[tuple[int, int], float], count: int
) -> sparse.csr_array:
    """Return a difference as a matrix, one row wherever all pixels of the stencil are in use."""
    padded = np.pad(index, 1, constant_values=-1)
    size = index.shape
    columns = np.stack(
        [padded[1 + i : 1 + i + size[0], 1 + j : 1 + j + size[1]].ravel() for i, j in stencil]
    )
    columns = columns[:, (columns >= 0).all(axis=0)]
    rows = np.broadcast_to(np.arange(columns.shape[1]), columns.shape)
    entries = np.repeat(np.array(list(stencil.values())), columns.shape[1])
    return sparse.csr_array(
        (entries, (rows.ravel(), columns.ravel())), shape=(columns.shape[1], count)
    )
