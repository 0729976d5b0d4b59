"""Voxels enclosed by a closed surface."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from famseg.messages import InputError

# Rays pass through the centers of voxels, shifted by irrational fractions of a voxel. Otherwise
# they would hit vertices and edges of meshes made from voxels, which belong to several triangles.
_ASIDE = (np.sqrt(2) - 1.4140, np.sqrt(3) - 1.7318)
_AT_ONCE = 500_000

MOST_COLUMNS = 200_000_000
"""Largest number of columns below all triangles, which take half a minute."""

Floats = NDArray[np.float64]


def inside(
    vertices: Floats,
    faces: NDArray[np.int64],
    affine: Floats,
    shape: tuple[int, int, int],
) -> tuple[NDArray[np.uint8], int]:
    """Return the voxels whose centers a surface encloses.

    Along each column of voxels a ray is followed; it is inside after an odd number of crossings.
    Needs one byte per voxel, and time in proportion to the columns below all triangles.

    Args:
        vertices: In mm, ``(V, 3)``.
        faces: Triangles ``(F, 3)``; each edge must belong to an even number of them.
        affine: Maps voxel indices to the mm of the vertices, ``(4, 4)``.
        shape: Voxels of the grid.

    Returns:
        A mask of 0 and 1, and the number of columns with an odd number of crossings in spite of
        that (rounding): they get the values of most of their neighbors.

    Raises:
        InputError: If there are more columns below triangles than `MOST_COLUMNS`; the message does
        not begin with a path.

    Example:
        >>> v = np.array([[0, 0, -0.5], [4, 0, -0.5], [0, 4, -0.5], [0, 0, 3.5]])
        >>> f = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
        >>> mask, odd = inside(v, f, np.eye(4), (5, 5, 5))
        >>> mask[1, 1].tolist(), odd
        ([1, 1, 0, 0, 0], 0)
    """
    to_voxels = np.linalg.inv(affine)
    points = vertices @ to_voxels[:3, :3].T + to_voxels[:3, 3]
    points[:, :2] += _ASIDE
    crossings = np.zeros((*shape[:2], shape[2] + 1), dtype=np.uint8)
    flat = crossings.reshape(-1)
    for column, height, _ in _crossings(points[faces], shape):
        # The first voxel whose center is above the crossing, or the end of the column.
        level = np.clip(np.floor(height) + 1, 0, shape[2]).astype(np.int64)
        np.add.at(flat, column * (shape[2] + 1) + level, np.uint8(1))
    np.cumsum(crossings, axis=2, dtype=np.uint8, out=crossings)
    crossings &= 1
    odd = crossings[:, :, -1] > 0
    mask = crossings[:, :, :-1]
    _settle(mask, odd)
    return mask, int(odd.sum())


def crossings(
    vertices: Floats, faces: NDArray[np.integer], affine: Floats, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
    """Return where a surface crosses the lines through the voxels of a layer, along the third axis.

    Args:
        vertices: In mm, ``(V, 3)``.
        faces: Triangles ``(F, 3)``, counterclockwise seen from outside.
        affine: Maps voxel indices to the mm of the vertices, ``(4, 4)``.
        shape: Voxels of the layer.

    Returns:
        For each crossing the voxel as one number, the height in voxels, and whether the line
        leaves the solid there; in no order.
    """
    to_voxels = np.linalg.inv(affine)
    points = vertices @ to_voxels[:3, :3].T + to_voxels[:3, 3]
    points[:, :2] += _ASIDE
    found = list(_crossings(points[faces], shape))
    return (
        np.concatenate([np.zeros(0, np.int64), *(part[0] for part in found)]),
        np.concatenate([np.zeros(0), *(part[1] for part in found)]),
        np.concatenate([np.zeros(0, np.bool_), *(part[2] for part in found)]),
    )


def _crossings(
    triangles: Floats, shape: tuple[int, ...]
) -> Iterator[tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]]:
    """Yield columns of voxels (as one number), where triangles cross them, and the direction."""
    flat = triangles[:, :, :2]
    low = np.maximum(np.ceil(flat.min(axis=1)), 0).astype(np.int64)
    high = np.minimum(np.floor(flat.max(axis=1)), np.array(shape[:2]) - 1).astype(np.int64)
    across = np.maximum(high - low + 1, 0)
    counts = across[:, 0] * across[:, 1]
    kept = np.flatnonzero(counts)
    ends = np.cumsum(counts[kept])
    if len(ends) and ends[-1] > MOST_COLUMNS:
        raise InputError(
            "the mesh is not a surface: its triangles overlap hundreds of times; repair it"
        )
    start = 0
    while start < len(kept):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _AT_ONCE, side="right")))
        part = kept[start:stop]
        owner = np.repeat(part, counts[part])
        number = np.arange(len(owner)) - np.repeat(
            ends[start:stop] - counts[part] - before, counts[part]
        )
        x = low[owner, 0] + number // across[owner, 1]
        y = low[owner, 1] + number % across[owner, 1]
        yield _met(triangles[owner], x, y, shape[1])
        start = stop


def _met(
    triangles: Floats, x: NDArray[np.int64], y: NDArray[np.int64], width: int
) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
    """Return which columns pass through their triangles, at which heights, and whether outwards."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    along = np.stack([_side(b, c, x, y), _side(c, a, x, y), _side(a, b, x, y)])
    hit = (along > 0).all(axis=0) | (along < 0).all(axis=0)
    weights = along[:, hit] / along[:, hit].sum(axis=0)
    height = (weights * triangles[hit, :, 2].T).sum(axis=0)
    return x[hit] * width + y[hit], height, along[0, hit] > 0


def _side(p: Floats, q: Floats, x: NDArray[np.int64], y: NDArray[np.int64]) -> Floats:
    """Return on which side of the edge from p to q a point lies, as an area.

    The two triangles of an edge must get exactly opposite results, so the ends are sorted first.
    """
    swap = (p[:, 0] > q[:, 0]) | ((p[:, 0] == q[:, 0]) & (p[:, 1] > q[:, 1]))
    first = np.where(swap[:, None], q, p)
    second = np.where(swap[:, None], p, q)
    area = (second[:, 0] - first[:, 0]) * (y - first[:, 1]) - (second[:, 1] - first[:, 1]) * (
        x - first[:, 0]
    )
    return np.where(swap, -area, area)


def _settle(mask: NDArray[np.uint8], odd: NDArray[np.bool_]) -> None:
    """Set unreliable columns to the majority of their neighbors, in place."""
    for x, y in np.argwhere(odd):
        xs = slice(max(x - 1, 0), x + 2)
        ys = slice(max(y - 1, 0), y + 2)
        good = mask[xs, ys][~odd[xs, ys]]
        mask[x, y] = (2 * good.sum(axis=0) > len(good)) if len(good) else 0
