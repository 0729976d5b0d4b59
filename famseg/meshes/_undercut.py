"""Undercut of an implant, and the best direction of insertion.

When an implant moves along a straight line, each part of it that has bone behind it, against the
direction of movement, collides with that bone. The volume of these parts is the undercut, which
would have to be cut off. It is measured along many parallel lines through both solids, with exact
intersections: every part of the implant farther along a line than the first bone is blocked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from famseg.meshes._inside import crossings
from famseg.meshes._mesh import Mesh
from famseg.meshes._solid import box_mm, intersect, simplify

_SPACING_MM = 0.5
_SEARCH_SPACING_MM = 1.5
_SEARCH_ERROR_MM = 0.25  # tolerance of simplified meshes while directions are compared
_CONE_DEG = 45.0  # largest angle of candidates from the mean normal
_STEP_DEG = (15.0, 7.5, 4.0)  # between candidates, then around the best so far
_ABOVE_MM = 30.0  # height above an implant within which bone can block it
_BESIDE_MM = 5.0
_MIDDLE_MM = 0.5  # if the centers of implant and bone are closer, the outside is not defined
_EQUAL = 0.02  # undercuts that differ by less than this share of the implant count as equal

Floats = NDArray[np.float64]


def undercut(
    implant: Mesh, bone: Mesh, direction: ArrayLike, *, spacing_mm: float = _SPACING_MM
) -> float:
    """Return the volume of an implant that bone blocks on insertion.

    Args:
        implant: The implant in its final place, a closed mesh.
        bone: A closed mesh.
        direction: The way it moves, towards its place; of any length above 0.
        spacing_mm: Distance between the lines of measurement. The error of the volume is at most
            about half of it times the area of walls that are parallel to the direction and touch
            the bone.

    Returns:
        The undercut in cubic mm, 0 if insertion is free; parts that overlap bone in the final
        position are only counted if there is bone behind them.

    Raises:
        ValueError: If a mesh is open or empty, or the direction is 0.
    """
    way = unit(direction)
    near = bone_around(implant, bone)
    return _blocked_mm3(implant, near, way, spacing_mm) if len(near.faces) else 0.0


def insertion_direction(implant: Mesh, bone: Mesh) -> tuple[Floats, float]:
    """Return the direction of insertion with the smallest undercut.

    Directions within 45 degrees around the implant's mean normal are compared on lines 1.5 mm
    apart, then those around the best one in decreasing steps; among equal ones, the one closest to
    the normal is chosen. An implant is inserted from outside, which is defined by the center of the
    bone.

    Args:
        implant: The implant in its final place, a closed mesh.
        bone: A closed mesh, the whole skull if possible.

    Returns:
        The unit vector of the movement in world axes, pointing into the head, and its
        :func:`undercut` in cubic mm.

    Raises:
        ValueError: If a mesh is open or empty.
    """
    center = -_outwards(implant, bone)
    near = bone_around(implant, bone)
    if len(near.faces) == 0:
        return center, 0.0
    along = _blocked_mm3(implant, near, center, _SEARCH_SPACING_MM) / implant.volume_mm3
    if along <= _EQUAL * _STEP_DEG[-1] / _CONE_DEG:  # any other direction would have to be better
        return center, _blocked_mm3(implant, near, center, _SPACING_MM)
    small = simplify(implant, max_error_mm=_SEARCH_ERROR_MM)
    walls = simplify(near, max_error_mm=_SEARCH_ERROR_MM)

    def blocked(way: Floats) -> float:
        return _blocked_mm3(small, walls, way, _SEARCH_SPACING_MM) / small.volume_mm3

    best, least, wide = center, blocked(center), _CONE_DEG
    for step in _STEP_DEG:
        for way in _around(best, wide, step):
            angle = float(np.degrees(np.arccos(np.clip(way @ center, -1, 1))))
            # If undercuts are equal within the sampling error, the direction closer to the normal
            # wins.
            tilted = _EQUAL * angle / _CONE_DEG
            if angle > _CONE_DEG + 1e-6 or tilted >= least:  # cannot win even with an undercut of 0
                continue
            if (value := blocked(way) + tilted) < least:
                best, least = way, value
        wide = step
    return best, _blocked_mm3(implant, near, best, _SPACING_MM)


def unit(direction: ArrayLike) -> Floats:
    way = np.asarray(direction, dtype=np.float64)
    if way.shape != (3,) or not np.isfinite(way).all() or not way.any():
        raise ValueError(f"a direction must be three numbers, not all 0, got {direction!r}")
    return np.asarray(way / np.linalg.norm(way))


def _outwards(implant: Mesh, bone: Mesh) -> Floats:
    """Return the implant's mean normal, pointing away from the center of the bone.

    It is the direction that the two opposite walls, most of the surface, face.
    """
    vectors = implant.area_vectors_mm2
    area = np.linalg.norm(vectors, axis=1)
    seen = area > 0
    spread = (vectors[seen].T / area[seen]) @ vectors[seen]
    axis = np.linalg.eigh(spread)[1][:, -1]
    away = float((implant.centroid_mm - bone.centroid_mm) @ axis)
    if abs(away) < _MIDDLE_MM:  # a plate in a flat piece of bone: the outside is not defined
        away = float(axis[np.argmax(np.abs(axis))])
    return np.asarray(axis if away > 0 else -axis)


def _around(center: Floats, wide_deg: float, step_deg: float) -> list[Floats]:
    """Return unit vectors on rings around a given one."""
    u, v = _across(center)
    ways = []
    for ring in range(1, int(np.ceil(wide_deg / step_deg - 1e-9)) + 1):
        tilt = np.radians(min(ring * step_deg, wide_deg))
        for turn in np.arange(6 * ring) * (2 * np.pi / (6 * ring)):
            sideways = np.cos(turn) * u + np.sin(turn) * v
            ways.append(np.cos(tilt) * center + np.sin(tilt) * sideways)
    return ways


def _across(way: Floats) -> tuple[Floats, Floats]:
    """Return two unit vectors that are perpendicular to a given one and to each other."""
    other = np.eye(3)[np.argmin(np.abs(way))]
    u = np.cross(way, other)
    u /= np.linalg.norm(u)
    return u, np.cross(way, u)


def bone_around(implant: Mesh, bone: Mesh) -> Mesh:
    """Return the bone that an implant can touch on its way in from any direction."""
    low, high = implant.bounds_mm
    margin = _BESIDE_MM + _ABOVE_MM
    if (bone.bounds_mm[0] >= low - margin).all() and (bone.bounds_mm[1] <= high + margin).all():
        return bone
    return intersect(bone, box_mm(low - margin, high + margin))


def _blocked_mm3(implant: Mesh, bone: Mesh, way: Floats, spacing_mm: float) -> float:
    """Return the volume of the implant with bone behind it, against the direction of movement."""
    affine, shape = layer(implant, way, spacing_mm)
    start = first_bone_mm(bone, affine, shape)
    column, height, leaving = crossings(implant.vertices, implant.faces, affine, shape)
    beyond = np.maximum(height, start[column])
    met = np.isfinite(beyond)
    column, signs = column[met], np.where(leaving[met], 1.0, -1.0)
    lengths = np.bincount(column, signs * beyond[met], minlength=start.size)
    odd = np.bincount(column, signs, minlength=start.size) != 0  # a crossing was lost by rounding
    return float(lengths[~odd].sum()) * spacing_mm**2


def layer(implant: Mesh, way: Floats, spacing_mm: float) -> tuple[Floats, tuple[int, int]]:
    """Return lines through an implant along the direction; 0 mm is where bone becomes relevant.

    The affine maps a line's two indices and the height in mm along it to mm of the world.
    """
    u, v = _across(way)
    axes = np.stack([u, v, way], axis=1)  # columns: right-handed, the third is the way
    here = implant.used_vertices @ axes
    low, high = here.min(axis=0) - spacing_mm, here.max(axis=0) + spacing_mm
    low[2] -= _ABOVE_MM
    affine = np.eye(4)
    affine[:3, :3] = axes * [spacing_mm, spacing_mm, 1.0]
    affine[:3, 3] = axes @ low
    x, y = (np.ceil((high - low)[:2] / spacing_mm).astype(int) + 1).tolist()
    return affine, (x, y)


def first_bone_mm(bone: Mesh, affine: Floats, shape: tuple[int, int]) -> Floats:
    """Return the height at which each line first enters bone, at least 0; infinity if never."""
    column, height, leaving = crossings(bone.vertices, bone.faces, affine, shape)
    before = height < 0
    depth = np.bincount(column[before], np.where(leaving[before], -1, 1), minlength=np.prod(shape))
    start = np.where(depth > 0, 0.0, np.inf)
    np.minimum.at(start, column[~before], height[~before])
    return start
