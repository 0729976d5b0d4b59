"""The gap between an implant and the bone around it: measures and creates it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from famseg.meshes._distance import closest, samples_of
from famseg.meshes._mesh import Mesh
from famseg.meshes._read import voxelize
from famseg.meshes._solid import largest_pieces, subtract
from famseg.meshes._surface import surface_mesh, surface_mesh_of_field

RIM_MM = 3.0
"""Points of an implant that are nearer to bone than this belong to its rim."""

_SAMPLES_PER_MM2 = 4.0
_TRIAL_PER_MM2 = 1.0  # sampling density while the gap is cut
_MOST_SAMPLES = 200_000
_AROUND_VOXELS = 8  # margin beyond the gap within which bone is considered
_FINE_MM = (0.3, 0.5)  # voxels on which a gap is cut: as in the masks, within these limits
_CHORDS = 0.08  # of a voxel by which faces of a cut surface are closer to bone than vertices
_MOST_TRIES = 4
_SLIVER = 0.01  # pieces of an implant smaller than this share of the largest are removed

Floats = NDArray[np.float64]


class Gap(NamedTuple):
    """Distances from points of an implant's rim to the surface of the bone, in mm.

    Attributes:
        minimum_mm: The smallest; negative where the implant reaches into the bone.
        p1_mm: 1st percentile.
        median_mm: Median.
        p99_mm: 99th percentile.
        samples: Points of the rim, each of which represents the same area; 0 if there is no bone
            within
            ``rim_mm``: then all distances are infinite.
    """

    minimum_mm: float
    p1_mm: float
    median_mm: float
    p99_mm: float
    samples: int


def gap_mm(implant: Mesh, bone: Mesh, *, rim_mm: float = RIM_MM) -> Gap:
    """Measure the gap between an implant and bone.

    Points are spread evenly over the implant's surface, at least four per square mm up to 200,000,
    and the exact distance of each to the bone's surface is computed, negative inside the bone.
    Points with less than ``rim_mm`` are the rim, to which the percentiles refer.

    Args:
        implant: A closed mesh.
        bone: A closed mesh, or the part of it around the implant.
        rim_mm: Largest distance of the rim from bone; deeper overlaps are not detected, either.

    Raises:
        ValueError: If one of the meshes is empty, or ``rim_mm`` is not above 0.
    """
    if rim_mm <= 0:
        raise ValueError(f"rim_mm must be above 0, got {rim_mm}")
    return _measured(implant, bone, rim_mm, _SAMPLES_PER_MM2)


def _measured(implant: Mesh, bone: Mesh, rim_mm: float, per_mm2: float) -> Gap:
    """Return the gap measured at the given number of points per square mm."""
    count = int(np.clip(implant.area_mm2 * per_mm2, 1000, _MOST_SAMPLES))
    points, _ = samples_of(implant, count)
    near = _faces_near(bone, implant.bounds_mm, rim_mm)
    found = closest(points, near, max_mm=rim_mm) if len(near.faces) else None
    if found is None or not np.isfinite(found.away_mm).any():
        return Gap(np.inf, np.inf, np.inf, np.inf, 0)
    rim = np.isfinite(found.away_mm)
    away = (found.away_mm * found.outside)[rim]
    p1, median, p99 = np.percentile(away, [1, 50, 99])
    return Gap(float(away.min()), float(p1), float(median), float(p99), int(rim.sum()))


def offset(mesh: Mesh, distance_mm: float, *, spacing_mm: float = 0.5) -> Mesh:
    """Return a solid that is enlarged by a distance on all sides, or shrunk by a negative one.

    The surface of the exact signed distance, on cubic voxels. Convex edges become round when it
    grows. Accurate to a tenth of a voxel on smooth parts.

    Args:
        mesh: The surface of a solid.
        distance_mm: How far the surface moves outwards.
        spacing_mm: Edge of the voxels.

    Raises:
        ValueError: If the mesh is open, or nothing is left of it.

    Example:
        >>> block = surface_mesh(np.ones((9, 9, 9)), np.eye(4), smoothing_mm=0.5)
        >>> grown = offset(block, 1.0, spacing_mm=1.0)
        >>> (grown.bounds_mm - block.bounds_mm).round(1).tolist()
        [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]
    """
    affine, shape = grid_around(mesh.bounds_mm, max(distance_mm, 0.0) + 2 * spacing_mm, spacing_mm)
    field = _signed_mm(mesh, np.ones(shape, dtype=np.bool_), affine, distance_mm)
    if not (field < distance_mm).any():
        raise ValueError(f"nothing is left of the mesh when it shrinks by {-distance_mm} mm")
    return surface_mesh_of_field(-field, affine, -distance_mm)


def separated(
    implant_mask: ArrayLike,
    bone_mask: ArrayLike,
    affine: ArrayLike,
    gap_mm: float,
    *,
    smoothing_mm: float | None = None,
) -> Mesh:
    """Return the surface of an implant with a gap to the surrounding bone.

    The bone's surface is moved outwards by the gap, in exact distances on voxels of 0.3 to 0.5 mm,
    and its interior is subtracted from the implant. Then the gap is measured, and cut again if its
    1st percentile is below the requested one. Slivers are removed. Surfaces farther from bone than
    the gap are those of :func:`surface_mesh`.

    Args:
        implant_mask: Nonzero in the implant; may overlap the bone.
        bone_mask: Nonzero in the bone, on the same grid.
        affine: Maps voxel indices to world mm, shape ``(4, 4)``.
        gap_mm: The distance to keep, 0 or more.
        smoothing_mm: As in :func:`surface_mesh`, for both.

    Returns:
        A mesh whose gap to ``surface_mesh(bone_mask, affine)`` has a 1st percentile of at least
        ``gap_mm`` - 0.05 mm.

    Raises:
        ValueError: If a mask is empty, their shapes are different, the gap is negative, or nothing
            of the implant remains.
    """
    implant, bone = np.asarray(implant_mask) != 0, np.asarray(bone_mask) != 0
    if implant.shape != bone.shape:
        raise ValueError(f"the masks have different shapes: {implant.shape} and {bone.shape}")
    if not 0 <= gap_mm < np.inf:
        raise ValueError(f"gap_mm must be 0 or more, got {gap_mm}")
    place = np.asarray(affine, dtype=np.float64)
    solid = surface_mesh(implant, place, smoothing_mm=smoothing_mm)
    around = _around(implant, bone, place, gap_mm)
    if not around.any():
        return solid
    walls = surface_mesh(around, place, smoothing_mm=smoothing_mm)
    return cut_gap(solid, walls, gap_mm, float(np.linalg.norm(place[:3, :3], axis=0).min()))


def cut_gap(solid: Mesh, walls: Mesh, asked_mm: float, voxel_mm: float) -> Mesh:
    """Subtract bone and gap from an implant until the measured gap is the requested one.

    Args:
        solid: The implant; may overlap the bone.
        walls: The surface of the bone around it.
        asked_mm: The gap.
        voxel_mm: The shortest edge of the voxels that both were made from.

    Raises:
        ValueError: If nothing is left of the implant.
    """
    spacing = float(np.clip(voxel_mm, *_FINE_MM))
    wide, result = asked_mm + _CHORDS * spacing, solid
    for _ in range(_MOST_TRIES):
        cutter = _grown(walls, solid, wide, spacing)
        result = subtract(solid, cutter) if cutter is not None else solid
        if len(result.faces) == 0:
            raise ValueError(f"a gap of {asked_mm} mm leaves nothing of the implant")
        result = largest_pieces(result, min_share=_SLIVER)
        missing = asked_mm - _measured(result, walls, asked_mm + RIM_MM, _TRIAL_PER_MM2).p1_mm
        if missing <= 0.02:
            break
        wide += missing
    return result


def _grown(walls: Mesh, solid: Mesh, wide_mm: float, spacing_mm: float) -> Mesh | None:
    """Return bone plus gap in the region of an implant; None if the gap does not reach it."""
    margin = 3 * spacing_mm
    affine, shape = grid_around(solid.bounds_mm, margin, spacing_mm)
    wanted = ndimage.binary_dilation(voxelize(solid, shape, affine), iterations=2)
    field = _signed_mm(walls, wanted, affine, wide_mm)
    if not (field < wide_mm).any():
        return None
    return surface_mesh_of_field(-field, affine, -wide_mm)


def _signed_mm(
    mesh: Mesh, wanted: NDArray[np.bool_], affine: Floats, level_mm: float
) -> NDArray[np.float32]:
    """Return signed distances to a surface at cubic voxels, negative inside, exact near a level.

    The level surface passes between adjacent voxels, which are at most one edge away from it, so
    only these are computed. All others are on the correct side. Unrequested voxels count as far
    outside.
    """
    edge = float(np.linalg.norm(affine[:3, 0]))
    inside = voxelize(mesh, wanted.shape, affine) & wanted
    far = abs(level_mm) + 2 * edge
    field = np.where(inside, -far, far).astype(np.float32)
    near = wanted & within(mesh, wanted.shape, affine, abs(level_mm) + edge)
    if level_mm >= edge:
        near &= ~inside
    elif level_mm <= -edge:
        near &= inside
    places = np.argwhere(near)
    points = places @ affine[:3, :3].T + affine[:3, 3]
    away = np.minimum(closest(points, mesh, max_mm=abs(level_mm) + edge).away_mm, far)
    field[tuple(places.T)] = np.where(inside[tuple(places.T)], -away, away)
    return field


def within(
    mesh: Mesh, shape: tuple[int, ...], affine: Floats, reach_mm: float
) -> NDArray[np.bool_]:
    """Return at least all cubic voxels whose centers lie within a distance of a surface."""
    edge = float(np.linalg.norm(affine[:3, 0]))
    to_index = np.linalg.inv(affine)
    apart = max(edge, reach_mm / 5)
    points = lattice(mesh, apart)
    index = np.rint(points @ to_index[:3, :3].T + to_index[:3, 3]).astype(np.int64)
    # Largest distance from the surface to the nearest point, plus half a voxel for rounding.
    steps = int(np.ceil((reach_mm + apart) / edge + 0.5))
    index += steps  # a surface outside the grid may still be close to voxels in it
    found = np.zeros([n + 2 * steps for n in shape], dtype=np.uint8)
    held = ((index >= 0) & (index < found.shape)).all(axis=1)
    found[tuple(index[held].T)] = 1
    found = ndimage.maximum_filter(found, 2 * steps + 1, mode="constant")
    return np.asarray(found[tuple(slice(steps, steps + n) for n in shape)] > 0)


def lattice(mesh: Mesh, edge_mm: float) -> Floats:
    """Return points on all triangles, including corners, at most a given length apart."""
    corners = mesh.vertices[mesh.faces]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    parts = np.maximum(np.ceil(longest / edge_mm), 1).astype(int)
    points = []
    for count in np.unique(parts).tolist():
        u, v = np.indices((count + 1, count + 1)).reshape(2, -1) / count
        kept = u + v <= 1 + 1e-9
        weights = np.stack([1 - u - v, u, v], axis=1)[kept]
        points.append((weights @ corners[parts == count]).reshape(-1, 3))
    return np.concatenate(points)


def grid_around(
    bounds: Floats, margin_mm: float, spacing_mm: float
) -> tuple[Floats, tuple[int, int, int]]:
    """Return a grid of cubic voxels that contains a box."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = bounds[0] - margin_mm
    x, y, z = (np.ceil((np.ptp(bounds, axis=0) + 2 * margin_mm) / spacing_mm) + 1).astype(int)
    return affine, (int(x), int(y), int(z))


def _around(
    implant: NDArray[np.bool_], bone: NDArray[np.bool_], place: Floats, margin_mm: float
) -> NDArray[np.bool_]:
    """Return the bone within the bounding box of an implant and a margin."""
    steps = np.ceil(margin_mm / np.linalg.norm(place[:3, :3], axis=0)).astype(int)
    steps += _AROUND_VOXELS  # cutting the bone must not change its surface near the implant
    kept = np.zeros(bone.shape, dtype=np.bool_)
    places = np.argwhere(implant)
    low = np.maximum(places.min(axis=0) - steps, 0)
    high = places.max(axis=0) + steps + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    kept[box] = bone[box]
    return kept


def _faces_near(mesh: Mesh, bounds: Floats, margin_mm: float) -> Mesh:
    """Return the faces that may extend into a box and its margin."""
    corners = mesh.vertices[mesh.faces]
    kept = (corners.max(axis=1) >= bounds[0] - margin_mm).all(axis=1)
    kept &= (corners.min(axis=1) <= bounds[1] + margin_mm).all(axis=1)
    return Mesh(mesh.vertices, mesh.faces[kept])
