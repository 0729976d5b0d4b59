r"""Roughness of a surface: its deviation from a smooth surface fitted to each neighborhood.

The surface of a mask consists of the faces between foreground and background voxels. For each face
of an evenly drawn sample, take the faces within a ball of radius r that have about the same
direction (smoothed normals within 60 degrees: this leaves out the far side of a thin plate and the
wall around a sharp edge). In the tangent plane of the sampled face, with heights h above it in
units of r, fit by least squares

.. math:: h(u, v) = a + b u + c v + d u^2 + e u v + f v^2

so that neither the tilt nor the curvature of the shape counts. The weight of a face is the area it
covers in the smoothed surface: its own area times the cosine of the angle between both. With
s the weighted mean square of a neighborhood's residuals and A the weight of its sampled face, the
roughness is ``r sqrt(sum(A s) / sum(A))``. The definition is our own: the root mean square
roughness Rq of ISO 21920-2, with a fitted quadratic surface in place of the profile filter.

A neighborhood of fewer than 12 faces is a speck, not a surface, and is left out; the number of
components reports specks. A mask that consists of specks only gets r, which no surface exceeds.

A voxel grid adds roughness of its own: a smooth curved wall of cubic voxels deviates by 0.2 voxel
edges. Compare only masks on the same grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from famseg.metrics._masks import as_mask, as_spacing, check_volume
from famseg.metrics._surface import Floats, Mask, Spacing, bounding_box

RADIUS_MM = 5.0

_CENTERS = 500
_MOST_FACES = 500_000
_SAME_WAY = 0.5  # cosine of 60 degrees
_FEWEST_FACES = 12  # twice the terms of the fit
_RIDGE = 1e-9  # keeps a fit through too few faces defined


def surface_roughness(
    mask: npt.ArrayLike, spacing_mm: Sequence[float], *, radius_mm: float | None = None
) -> float:
    """Return the roughness of a mask's surface in mm: 0 is smooth.

    The root mean square deviation of the surface from a quadratic surface that is fitted to each
    neighborhood of radius ``radius_mm``; the module docstring has the formula. Steps and noise
    narrower than the radius count, the shape does not. Compare it with that of the reference at the
    same radius and on the same grid, because the grid itself adds about 0.2 voxel edges.

    Deterministic. At most 500 neighborhoods are fitted, so that the time grows with the faces in a
    ball, not with the mask: 0.1 s for an implant in voxels of 0.5 mm.

    Args:
        mask: Shape ``(X, Y, Z)``; an array or a tensor.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm.
        radius_mm: The scale; None for 5 mm or three voxels (the longest edge), whichever is larger.

    Returns:
        The roughness; NaN for an empty mask, which has no surface.

    Raises:
        ValueError: If it is not a three-dimensional mask or a length is not positive.

    Example:
        >>> plate = np.zeros((40, 40, 10))
        >>> plate[:, :, 2:8] = 1
        >>> round(surface_roughness(plate, (1.0, 1.0, 1.0)), 1)  # flat but for its edges
        0.1
    """
    found = as_mask(mask, "mask")
    check_volume(found)
    spacing = as_spacing(spacing_mm)
    radius = default_radius_mm(spacing) if radius_mm is None else float(radius_mm)
    if not 0 < radius < np.inf:
        raise ValueError(f"radius_mm must be a positive length in mm, got {radius}.")
    if not found.any():
        return float("nan")
    points, normals, areas = _faces(np.pad(found[bounding_box(found)], 1), spacing)
    centers = np.linspace(0, len(points) - 1, min(_CENTERS, len(points))).astype(int)
    squares, faces = _mean_squares(points / radius, normals, areas, centers)
    weights = areas[centers] * (faces >= _FEWEST_FACES)
    return radius * float(np.sqrt(np.average(squares, weights=weights))) if any(weights) else radius


def default_radius_mm(spacing: Spacing) -> float:
    """Return the default radius of ``surface_roughness``: 5 mm, but at least three voxels."""
    return max(RADIUS_MM, 3 * max(spacing))


def _faces(padded: Mask, spacing: Spacing) -> tuple[Floats, Floats, Floats]:
    """Return centers ``(N, 3)`` in mm, smoothed normals ``(N, 3)`` and covered areas ``(N,)``.

    The mask has a margin. Only every n-th face is returned if there are very many.
    """
    crossed = [np.diff(padded, axis=axis) for axis in range(3)]
    step = -(-sum(map(np.count_nonzero, crossed)) // _MOST_FACES)
    lower = [np.argwhere(each)[::step] for each in crossed]
    owner = np.repeat(range(3), [len(each) for each in lower])
    ahead = np.concatenate(lower) + np.eye(3, dtype=int)[owner]
    places = np.concatenate(lower), ahead
    normals = np.stack([_slope(padded, spacing, axis, places) for axis in range(3)], axis=1)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals /= np.where(lengths > 0, lengths, 1)  # a single voxel between others may have none
    sx, sy, sz = spacing
    sides = np.array([sy * sz, sx * sz, sx * sy])[owner]
    # The steps of an oblique wall have more area than the wall: the cosine corrects for that.
    areas = sides * np.maximum(np.abs(normals[np.arange(len(owner)), owner]), 1e-3)
    return (places[0] + ahead) / 2 * spacing, normals, areas


def _slope(
    padded: Mask, spacing: Spacing, axis: int, places: tuple[npt.NDArray[np.int_], ...]
) -> Floats:
    """Return minus one component of the smoothed gradient at faces: it points outwards."""
    from scipy import ndimage as ndi

    order = [int(axis == other) for other in range(3)]
    sigma = [max(spacing) / edge for edge in spacing]
    field = ndi.gaussian_filter(padded, sigma, order=order, output=np.float32, mode="nearest")
    slope: Floats = sum(field[tuple(place.T)] for place in places) / -spacing[axis]
    return slope


def _mean_squares(
    points: Floats, normals: Floats, areas: Floats, centers: npt.NDArray[np.int_]
) -> tuple[Floats, npt.NDArray[np.int_]]:
    """Return each center's mean squared residual in squared radii, and its number of faces."""
    from scipy.spatial import KDTree

    # Faces are spread evenly: an unbalanced tree is as fast to search and faster to build.
    tree = KDTree(points, compact_nodes=False, balanced_tree=False)
    near = tree.query_ball_point(points[centers], 1.0)
    owner = np.repeat(np.arange(len(centers)), [len(each) for each in near])
    member = np.concatenate(near).astype(int)
    middle = centers[owner]
    same = np.einsum("ij,ij->i", normals[member], normals[middle]) > _SAME_WAY
    same |= member == middle
    owner, member, middle = owner[same], member[same], middle[same]
    offset = points[member] - points[middle]
    up, first, second = _frames(normals[centers])
    u, v, h = (np.einsum("ij,ij->i", offset, axis[owner]) for axis in (first, second, up))
    terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v, h], axis=1)
    faces = np.bincount(owner, minlength=len(centers))
    return _residuals(terms, areas[member], owner, len(centers)), faces


def _frames(normals: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the normals and, for each, two orthogonal tangents."""
    flattest = np.eye(3)[np.argmin(np.abs(normals), axis=1)]
    first = np.cross(normals, flattest)
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    return normals, first, np.cross(normals, first)


def _residuals(terms: Floats, weights: Floats, owner: npt.NDArray[np.int_], count: int) -> Floats:
    """Fit the last column by the others in each group; return weighted mean squared residuals.

    The normal equations of all groups are solved in one batch. The residual follows from them:
    ``mean(h^2) - fitted . mean(terms h)``, without going back to the faces.
    """
    starts = np.searchsorted(owner, np.arange(count))
    size = terms.shape[1]
    first, second = np.triu_indices(size)  # the matrix is symmetric
    products = terms[:, first] * terms[:, second] * weights[:, None]
    sums = np.add.reduceat(products, starts) / np.add.reduceat(weights, starts)[:, None]
    moments = np.empty((count, size, size))
    moments[:, first, second] = moments[:, second, first] = sums
    left, right, square = moments[:, :-1, :-1], moments[:, :-1, -1], moments[:, -1, -1]
    fitted = np.linalg.solve(left + _RIDGE * np.eye(left.shape[1]), right[..., None])[..., 0]
    explained = np.einsum("ij,ij->i", fitted, right)
    squares: Floats = np.maximum(square - explained, 0.0)
    return squares
