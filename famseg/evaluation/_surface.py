r"""Surfaces of binary masks and exact distances between them.

Two discrete surfaces of a mask are in use, and they do not measure the same thing:

- **Voxel borders**: foreground voxels with a background voxel among their six neighbours. A border
  is a set of voxel centres, each counting alike. MONAI, medpy and AutoImplant use it.
- **Surface elements**: one element for each group of 2 x 2 x 2 voxels that holds both foreground
  and background. It sits at the point the eight voxels share and carries the area of the surface
  that passes between them, so that a statistic over elements is an integral over the surface. An
  oblique wall has more elements to the square millimetre than one along the grid: hence weights.

Area of an element
    Name the voxels of a group by bits, ``b = dx + 2 dy + 4 dz``; the bits of the foreground voxels
    make a code from 0 to 255. The surface cuts each of the cube's 12 edges whose ends differ, at
    its middle (masks carry no finer information). On a face of the cube with two cut edges it
    leaves a segment between them. With four, the two foreground corners are diagonal, and the face
    allows two readings: cut off each foreground corner, or each background corner. The reading
    depends on the face alone, so neighbouring groups always agree on it and the surface is closed.
    Every cut edge belongs to two faces, so the segments join into closed loops. A loop spans the
    fan of triangles from its centroid: exact for a flat loop, and independent of where a loop
    starts, so the area has every symmetry of the cube. The table holds the mean over the two
    readings, which makes the areas of a mask and of its complement equal. A voxel of size
    (sx, sy, sz) stretches a triangle's area vector n to (sy sz nx, sx sz ny, sx sy nz).

    Flat surfaces along the grid and at 45 degrees have their true area; a sphere comes out 7 % too
    large with cubic voxels and 23 % with voxels six times as long as wide, as any surface through
    edge middles does. A common factor drops out of weighted means and percentiles.

Distances are Euclidean and exact, from Maurer's linear-time transform (IEEE PAMI 25, 2003) in the
joint bounding box of both masks. Time and memory depend on that box alone: a nearest-neighbour
tree, which is as fast on masks that are close, takes a hundred times longer on a prediction that
is foreground everywhere or noise, as that of an untrained network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 -- the name its users know it by

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Spacing = tuple[float, float, float]
_Edge = tuple[int, int]

_CODES = 256


@dataclass(frozen=True)
class Distances:
    """Directed distances between the surfaces of a prediction and of the truth, in one unit.

    Args:
        border_to_truth: From every border voxel of the prediction to the truth's border.
        border_to_prediction: The other way round.
        element_to_truth: From every surface element of the prediction to the truth's elements.
        element_to_prediction: The other way round.
        prediction_areas: Area of each of the prediction's elements, unit squared.
        truth_areas: Area of each of the truth's elements.
    """

    border_to_truth: Floats
    border_to_prediction: Floats
    element_to_truth: Floats
    element_to_prediction: Floats
    prediction_areas: Floats
    truth_areas: Floats


def surface_distances(prediction: Mask, truth: Mask, spacing: Spacing) -> Distances:
    """Measure both surfaces of two masks against each other.

    Four distance transforms of the joint bounding box: time and memory are linear in it.

    Args:
        prediction: Mask, shape ``(X, Y, Z)``, not empty.
        truth: Mask of the same shape, not empty.
        spacing: Edge lengths of a voxel; distances come out in their unit.
    """
    box = bounding_box(prediction | truth)
    # Padding closes a surface that touches the border of the image.
    prediction, truth = np.pad(prediction[box], 1), np.pad(truth[box], 1)
    p_border, t_border = border(prediction), border(truth)
    p_codes, t_codes = _codes(prediction), _codes(truth)
    p_elements, t_elements = _cut(p_codes), _cut(t_codes)
    areas = area_table(spacing)
    return Distances(
        border_to_truth=distances_at(t_border, p_border, spacing),
        border_to_prediction=distances_at(p_border, t_border, spacing),
        element_to_truth=distances_at(t_elements, p_elements, spacing),
        element_to_prediction=distances_at(p_elements, t_elements, spacing),
        prediction_areas=areas[p_codes[p_elements]],
        truth_areas=areas[t_codes[t_elements]],
    )


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Return the slices of the smallest box that holds all of a mask which is not empty."""
    slices = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        slices.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(slices)


def border(mask: Mask) -> Mask:
    """Return the foreground voxels with a background face neighbour; the outside is background."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        lower = (slice(None),) * axis + (slice(None, -1),)
        upper = (slice(None),) * axis + (slice(1, None),)
        inner[lower] &= mask[upper]
        inner[upper] &= mask[lower]
        for end in (0, -1):
            inner[(slice(None),) * axis + (end,)] = False
    return mask & ~inner


def elements(mask: Mask, spacing: Spacing) -> tuple[Mask, Floats]:
    """Return where the surface elements of a mask are, and their areas.

    Args:
        mask: Shape ``(X, Y, Z)``.
        spacing: Edge lengths of a voxel.

    Returns:
        A mask over the points between the voxels, shape ``(X + 1, Y + 1, Z + 1)``, and the areas of
        its elements in C order, in the squared unit of the spacing.

    Example:
        >>> where, areas = elements(np.ones((4, 4, 4), dtype=bool), (1.0, 1.0, 1.0))
        >>> where.shape, int(where.sum())
        ((5, 5, 5), 98)
        >>> round(float(areas.sum()), 2)  # 6 faces of 9, 12 bevelled edges of 3, 8 corners
        81.19
    """
    codes = _codes(np.pad(mask, 1))
    where = _cut(codes)
    return where, area_table(spacing)[codes[where]]


def distances_at(features: Mask, queries: Mask, spacing: Spacing) -> Floats:
    """Return the distance from each query to the nearest feature, both masks on one grid.

    Args:
        features: Points to go to, at least one, shape ``(X, Y, Z)``.
        queries: Points to come from, same shape.
        spacing: Distances between neighbouring points along each axis.

    Returns:
        One distance for each query, in C order. Squares are held in single precision: exact for
        unit spacing, good to 1e-6 relative otherwise.
    """
    if not queries.any():
        return np.zeros(0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(features).view(np.uint8))
    image.SetSpacing(spacing[::-1])  # the array's last axis is the image's first
    transform = sitk.SignedMaurerDistanceMapImageFilter()
    # Cases are dealt out to processes; threads on top of them nearly double the time under load.
    transform.SetNumberOfThreads(1)
    transform.InsideIsPositiveOff()
    transform.SquaredDistanceOn()
    transform.UseImageSpacingOn()
    squares = transform.Execute(image)
    found: Floats = sitk.GetArrayViewFromImage(squares)[queries].astype(np.float64)
    found[features[queries]] = 0.0  # the map is signed: negative or undefined inside
    return np.sqrt(found, out=found)


@lru_cache(maxsize=64)
def area_table(spacing: Spacing) -> Floats:
    """Return the area of the surface through a group of voxels for each of its 256 codes.

    Args:
        spacing: Edge lengths of a voxel (sx, sy, sz).

    Example:
        >>> table = area_table((1.0, 1.0, 1.0))
        >>> float(table[0b00001111])  # four voxels below, four above: a unit square
        1.0
        >>> bool(np.allclose(table, table[::-1]))  # mask and complement
        True
    """
    codes, vectors = _triangles()
    sx, sy, sz = spacing
    areas = np.linalg.norm(vectors * (sy * sz, sx * sz, sx * sy), axis=1)
    one_reading = np.bincount(codes, weights=areas, minlength=_CODES)
    # The complement's code is 255 - code; its foreground corners are this code's background.
    table: Floats = (one_reading + one_reading[::-1]) / 2
    table.setflags(write=False)  # it is cached
    return table


def _codes(padded: Mask) -> npt.NDArray[np.uint8]:
    """Return the code of each 2 x 2 x 2 group, shape one less along each axis."""
    one, two, four = np.uint8(1), np.uint8(2), np.uint8(4)
    bits = padded.view(np.uint8)
    bits = bits[:-1] | (bits[1:] << one)
    bits = bits[:, :-1] | (bits[:, 1:] << two)
    return bits[:, :, :-1] | (bits[:, :, 1:] << four)


def _cut(codes: npt.NDArray[np.uint8]) -> Mask:
    mixed: Mask = (codes != 0) & (codes != _CODES - 1)
    return mixed


@lru_cache(maxsize=1)
def _triangles() -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the triangles of every code: their codes ``(T,)`` and area vectors ``(T, 3)``."""
    corner = np.array([(b & 1, b >> 1 & 1, b >> 2 & 1) for b in range(8)], dtype=float)
    codes, vectors = [], []
    for code in range(_CODES):
        for loop in _loops(code):
            points = np.array([corner[list(edge)].mean(axis=0) for edge in loop])
            spokes = points - points.mean(axis=0)
            vectors.append(np.cross(spokes, np.roll(spokes, -1, axis=0)) / 2)
            codes += [code] * len(loop)
    return np.array(codes), np.concatenate(vectors)


def _loops(code: int) -> list[list[_Edge]]:
    """Return the closed loops of cut edges, every foreground corner cut off on ambiguous faces."""
    links = _links(code)
    loops = []
    while links:
        edge = next(iter(links))
        loop = []
        while edge in links:
            loop.append(edge)
            first, second = links.pop(edge)
            edge = first if first in links else second
        loops.append(loop)
    return loops


def _links(code: int) -> dict[_Edge, list[_Edge]]:
    """Return the two neighbours of each cut edge: one on either face that shares the edge."""
    links: dict[_Edge, list[_Edge]] = {}
    for axis, side in product(range(3), (0, 1)):
        u, v = (1 << other for other in range(3) if other != axis)
        ring = [(side << axis) + offset for offset in (0, u, u + v, v)]
        inside = [bool(code >> corner & 1) for corner in ring]
        edges = [_edge(ring[i], ring[(i + 1) % 4]) for i in range(4)]
        cut = [edges[i] for i in range(4) if inside[i] != inside[(i + 1) % 4]]
        if len(cut) == 4:
            pairs = [(edges[i - 1], edges[i]) for i in range(4) if inside[i]]
        else:
            pairs = [(cut[0], cut[1])] if cut else []
        for one, other_edge in pairs:
            links.setdefault(one, []).append(other_edge)
            links.setdefault(other_edge, []).append(one)
    return links


def _edge(one: int, other: int) -> _Edge:
    return (min(one, other), max(one, other))
