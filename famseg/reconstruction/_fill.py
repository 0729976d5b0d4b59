"""Fit of a smooth surface on a map to data: a thin plate with slight tension."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def fill(values: Array, weights: Array, use: Mask, pixel_mm: float, *, tension: float) -> Array:
    r"""Return the surface with the smallest bending energy near the data.

    Minimizes, over the pixels in ``use``,

    .. math:: \int |D^2 f|^2 + t |\nabla f|^2 + w (f - d)^2

    with lengths in mm, so that the result does not depend on the size of pixels. A plate without
    tension overshoots where the defect is wide. One factorization serves all channels: about 0.1
    processor seconds for 20,000 pixels.

    Args:
        values: Data ``d``, shape ``(..., N, N)``; ignored where the weight is 0.
        weights: ``w`` in mm^-4, shape ``(N, N)``, not negative.
        use: Pixels of the surface.
        pixel_mm: Edge of a pixel.
        tension: ``t`` in mm^-2.

    Returns:
        ``f``, shape ``(..., N, N)``, NaN outside ``use``.
    """
    terms = [(stencil, factor / pixel_mm**2) for stencil, factor in _BENDING]
    terms += [(stencil, tension) for stencil in _SLOPE]
    weight = weights[use] * pixel_mm**2
    bands = _bands(use, terms)
    bands[0] += weight + 1e-9
    data = np.where(weight > 0, values[..., use], 0.0) * weight
    filled = np.full(values.shape, np.nan)
    # With pixels numbered by row, those in one term are at most two rows apart, so the matrix is
    # banded. LAPACK factors it in a third of the time of a sparse factorization.
    filled[..., use] = linalg.solveh_banded(
        bands, data.T, lower=True, overwrite_ab=True, check_finite=False
    ).T
    return filled


# Pixels of a finite difference with their factors, in the order of numbering.
_Stencil = Mapping[tuple[int, int], float]

_BENDING: tuple[tuple[_Stencil, float], ...] = (
    ({(-1, 0): 1.0, (0, 0): -2.0, (1, 0): 1.0}, 1.0),
    ({(0, -1): 1.0, (0, 0): -2.0, (0, 1): 1.0}, 1.0),
    ({(0, 0): 1.0, (0, 1): -1.0, (1, 0): -1.0, (1, 1): 1.0}, 2.0),
)
_SLOPE: tuple[_Stencil, ...] = ({(0, 0): -1.0, (1, 0): 1.0}, {(0, 0): -1.0, (0, 1): 1.0})


def _bands(use: Mask, terms: Iterable[tuple[_Stencil, float]]) -> Array:
    """Return the lower bands of the matrix of a sum of squares, ``(B, pixels in use)``.

    A finite difference is included where all pixels of its stencil are in use.

    Args:
        use: Pixels in use, numbered by row.
        terms: Each finite difference with the factor of its square.
    """
    index = np.full(use.shape, -1)
    count = int(use.sum())
    index[use] = np.arange(count)
    entries = []
    for stencil, factor in terms:
        pixels = zip(_pixels(index, stencil), stencil.values(), strict=True)
        for (first, one), (later, other) in combinations_with_replacement(pixels, 2):
            entries.append((first, later - first, factor * one * other))
    width = 1 + max((int(below.max(initial=0)) for _, below, _ in entries), default=0)
    bands = np.zeros((count, width))
    for column, below, value in entries:
        bands[column, below] += value  # each index occurs once
    return bands.T


def _pixels(index: NDArray[np.int64], stencil: _Stencil) -> NDArray[np.int64]:
    """Return the numbers of a stencil's pixels, one column for each position with all in use."""
    padded = np.pad(index, 1, constant_values=-1)
    rows, columns = index.shape
    found = np.stack(
        [padded[1 + i : 1 + i + rows, 1 + j : 1 + j + columns].ravel() for i, j in stencil]
    )
    return found[:, (found >= 0).all(axis=0)]
