r"""Smooth surfaces of masks, without steps, and of scalar fields.

A mask :math:`m` is smoothed to :math:`F = G_\sigma * m`. No single level of it is correct: in a
wall as thin as the kernel, :math:`F` stays below 0.5, and a level that keeps such a wall would make
thick parts grow. The level is therefore local. With :math:`B` the voxels on both sides of the
mask's border,

.. math:: L = \frac{G_\tau * (F B)}{G_\tau * B}, \qquad \tau = 1.5 \sigma,

is the mean of :math:`F` at the border nearby. The surface is :math:`F - L = c`, with one small
constant :math:`c` that makes the volume that of the mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.measure import marching_cubes

from famseg.meshes._mesh import Mesh
from famseg.meshes._solid import simplify

SMOOTHING_VOXELS = 1.5
"""The default standard deviation of the smoothing, in units of the longest edge of a voxel."""

VOLUME_TOLERANCE = 5e-4
"""Largest relative difference between the volumes of a surface and its mask."""

_LEVEL_WIDTH = 1.5  # standard deviation of the local mean, in units of that of the smoothing
_PAD = 3  # voxels around the mask, which the surface exceeds by less than one
_MOST_STEPS = 12
_TRUNCATE = 3.0

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]


def surface_mesh(
    mask: ArrayLike,
    affine: ArrayLike,
    *,
    smoothing_mm: float | None = None,
    max_faces: int | None = None,
) -> Mesh:
    """Return the surface of a mask, without the staircase of its voxels.

    The mesh is closed, where the mask touches the border of its grid too, encloses the volume of
    the mask's voxels within 0.05 %, and its faces point outwards for every affine. Walls of two
    voxels survive the default smoothing; a standard deviation above their thickness can tear them.
    Takes about a microsecond and 20 bytes for each voxel of the box around the mask, and a
    microsecond a face.

    Args:
        mask: Nonzero inside, three axes.
        affine: Maps voxel indices to world mm, shape ``(4, 4)``; oblique, sheared and flipped
            ones are right, too.
        smoothing_mm: Standard deviation of the Gaussian. By default 1.5 times the longest edge of
            a voxel, which takes away the staircase; details that are smaller are rounded.
        max_faces: Simplify to so many faces at most, see :func:`simplify`.

    Raises:
        ValueError: If the mask is empty or has not three axes, or the affine cannot be inverted.

    Example:
        >>> ball = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0) < 9
        >>> mesh = surface_mesh(ball, np.diag([0.5, 0.5, 0.5, 1.0]))
        >>> mesh.is_watertight, mesh.centroid_mm.round(3).tolist()
        (True, [5.75, 5.75, 5.75])
        >>> round(8 * mesh.volume_mm3 / float(ball.sum()), 3)
        1.0
    """
    inside, place = _checked(np.asarray(mask) != 0, affine)
    edges_mm = np.linalg.norm(place[:3, :3], axis=0)
    if smoothing_mm is None:
        smoothing_mm = SMOOTHING_VOXELS * float(edges_mm.max())
    if not 0 <= smoothing_mm < np.inf:
        raise ValueError(f"smoothing_mm must be 0 or more, got {smoothing_mm}")
    inside, place = _cropped(inside, place)
    field = _anti_aliased(inside, smoothing_mm / edges_mm)
    mesh = _of_volume(field, place, inside)
    return mesh if max_faces is None else simplify(mesh, max_faces=max_faces)


def surface_mesh_of_field(field: ArrayLike, affine: ArrayLike, level: float) -> Mesh:
    """Return the isosurface of a smooth field, which is higher inside, at a level.

    It is closed where it meets the border of the grid. If voxels have exactly that value, the level
    is changed by a millionth of the field's range to avoid triangles without area.

    Args:
        field: Values at the centers of voxels, three axes.
        affine: Maps voxel indices to world mm, shape ``(4, 4)``.
        level: The value at the surface.

    Raises:
        ValueError: If the field has not three axes, is not finite or is nowhere above the level, or
            the affine cannot be inverted.

    Example:
        >>> radius = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)
        >>> mesh = surface_mesh_of_field(-radius, np.eye(4), -9.0)
        >>> round(mesh.volume_mm3 / (4 / 3 * np.pi * 9**3), 2)  # chords lie below the arc
        0.99
    """
    values = np.asarray(field, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the field must be finite: some of its values are NaN or infinite")
    if values.size and not (values > level).any():
        raise ValueError(f"the field has no surface: it is nowhere above its level of {level}")
    inside, place = _checked(values > level, affine)
    box, place = _box(inside, place, margin=1)
    values = values[box]
    # If the field is maximal at the border, the surface lies half a voxel outside.
    low = min(float(values.min()), 2 * level - float(values.max()))
    return _marched(np.pad(values, 1, constant_values=low), _moved(place, [-1, -1, -1]), level)


def _checked(inside: Mask, affine: ArrayLike) -> tuple[Mask, NDArray[np.float64]]:
    place = np.asarray(affine, dtype=np.float64)
    if inside.ndim != 3:
        raise ValueError(f"a mask must have three axes, got shape {inside.shape}")
    if place.shape != (4, 4):
        raise ValueError(f"the affine must have shape (4, 4), got {place.shape}")
    if not np.isfinite(place).all() or abs(np.linalg.det(place[:3, :3])) < 1e-12:
        raise ValueError("the affine must be finite and have a voxel volume above 0")
    if not inside.any():
        raise ValueError("the mask is empty: it has no surface")
    return inside, place


def _moved(place: NDArray[np.float64], steps: ArrayLike) -> NDArray[np.float64]:
    """Return an affine whose origin is shifted by some voxels."""
    moved = place.copy()
    moved[:3, 3] += place[:3, :3] @ np.asarray(steps, dtype=np.float64)
    return moved


def _box(
    inside: Mask, place: NDArray[np.float64], margin: int
) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    """Return the bounding box of a mask with a margin, clipped to the grid."""
    low, high = [], []
    for axis, count in enumerate(inside.shape):
        seen = np.flatnonzero(inside.any(axis=tuple(k for k in range(3) if k != axis)))
        low.append(max(int(seen[0]) - margin, 0))
        high.append(min(int(seen[-1]) + 1 + margin, count))
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), _moved(place, low)


def _cropped(inside: Mask, place: NDArray[np.float64]) -> tuple[Mask, NDArray[np.float64]]:
    box, place = _box(inside, place, margin=0)
    return np.pad(inside[box], _PAD), _moved(place, [-_PAD] * 3)


def _anti_aliased(inside: Mask, sigma_voxels: NDArray[np.float64]) -> Field:
    """Return a smooth field that is positive inside, see the module docstring."""

    def smoothed(values: Field, sigma: NDArray[np.float64]) -> Field:
        return np.asarray(
            ndimage.gaussian_filter(values, sigma, mode="constant", truncate=_TRUNCATE)
        )

    field = smoothed(inside.astype(np.float32), sigma_voxels)
    around = np.maximum(_LEVEL_WIDTH * sigma_voxels, 1.0)  # includes both sides of the border
    border = _border(inside)
    weight = smoothed(border.astype(np.float32), around)
    level = smoothed(np.where(border, field, np.float32(0)), around)
    near = weight > 1e-4  # elsewhere the field is 0 or 1, and any level in between is valid
    np.divide(level, weight, out=level, where=near)
    level[~near] = 0.5
    field -= level
    return field


def _border(inside: Mask) -> Mask:
    """Return the voxels on both sides of a mask's border, which have a different neighbor."""
    border = np.zeros(inside.shape, dtype=np.bool_)
    for axis in range(3):
        change = np.diff(inside, axis=axis)
        first, second = ([slice(None)] * 3 for _ in range(2))
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        border[tuple(first)] |= change
        border[tuple(second)] |= change
    return border


def _of_volume(field: Field, place: NDArray[np.float64], inside: Mask) -> Mesh:
    """Return the surface of a field at the level where it encloses the volume of a mask."""
    voxels = int(inside.sum())
    voxel_mm3 = abs(float(np.linalg.det(place[:3, :3])))
    outer = float(field.min()) - 1.0
    for axis in range(3):  # closes the surface at the border
        for end in (0, -1):
            np.moveaxis(field, axis, 0)[end] = outer
    # The number of voxels above this level is that in the mask, a first estimate of its volume.
    ranked = np.partition(field.ravel(), field.size - voxels - 1)
    level = float(ranked[field.size - voxels - 1 :][:2].mean())
    low, high = outer + 1.0, float(field.max())
    seen: list[tuple[float, float]] = []
    for _ in range(_MOST_STEPS):
        mesh = _marched(field, place, level)
        excess = mesh.volume_mm3 / voxel_mm3 - voxels
        if abs(excess) <= VOLUME_TOLERANCE * voxels:
            break
        low, high = (level, high) if excess > 0 else (low, level)
        seen.append((level, excess))
        level += _step(field, seen)
        if not low < level < high:  # the secant method fails if few voxels have values in between
            level = (low + high) / 2
    return mesh


def _step(field: Field, seen: list[tuple[float, float]]) -> float:
    """Return the change of the level, by the secant method from the previous volumes."""
    level, excess = seen[-1]
    if len(seen) > 1:
        before, more = seen[-2]
        if more != excess:
            return -excess * (before - level) / (more - excess)
    # In the first iteration, from the number of voxels close to the level.
    band = 0.05
    count = int(np.count_nonzero(np.abs(field - np.float32(level)) < band))
    return excess * 2 * band / max(count, 1)


def _marched(field: Field, place: NDArray[np.float64], level: float) -> Mesh:
    """Return the surface of a field whose border is below the level (marching cubes)."""
    level = _off_values(field, level)
    vertices, faces, _, _ = marching_cubes(field, level, gradient_direction="ascent")
    if np.linalg.det(place[:3, :3]) < 0:
        faces = faces[:, ::-1]
    world = vertices.astype(np.float64) @ place[:3, :3].T + place[:3, 3]
    return Mesh(world, faces)


def _off_values(field: Field, level: float) -> float:
    step = 1e-6 * max(float(np.ptp(field)), float(np.finfo(np.float32).tiny))
    while (field == np.float32(level)).any():
        level += step
        step *= 2  # a step below the precision of the value has no effect
    return float(np.float32(level))
