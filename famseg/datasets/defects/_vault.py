"""A map of the wall of the vault: the distance of its surfaces from the center, by direction.

The map is Lambert's azimuthal equal-area projection, in which every pixel covers the same solid
angle. The area of any part of the outer surface is therefore a sum over pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.messages import InputError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_VAULT_FROM = 0.6  # height of the center, as a share of the height of all bone

WHOLE_SPHERE = 1.9  # of 2; omits the opposite 36 degrees around the foramen magnum
_PIXEL_VOXELS = 1.2  # edge of a pixel on the wall
_FINEST_PIXEL_MM = 2.5
_STEP_VOXELS = 0.75  # step along a ray
_NEAREST_MM = 20.0  # bone closer to the center does not belong to the vault
_FARTHEST_MM = 150.0
_NOT_DEEPER = 0.65  # of the usual distance of the inner surface; closer is the wing of the sphenoid
_SINUS_MM = 20.0  # largest gap within one wall: marrow, or the frontal sinus
_MAX_WALL_MM = 30.0  # a longer path through bone is the base or the face, not the wall of the vault
_SMOOTH_MM = 5.0
_STEEPEST = 1.2  # largest slope of the outer surface; at a rim it jumps


def vault_middle(skull: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the origin of the rays as a voxel: the center of the vault.

    It lies at 0.6 of the height of all bone (above the orbits, with or without face and jaw), in
    the center of the bone above it.
    """
    heights = np.flatnonzero(skull.any(axis=(0, 1)))
    if heights.size == 0:
        raise InputError("inject: the mask is empty, there is no skull to cut a defect into")
    low_z = round(heights[0] + _VAULT_FROM * (heights[-1] - heights[0]))
    above = np.asarray(skull[:, :, low_z:].any(axis=2))
    middle = []
    for axis in (0, 1):
        hits = np.flatnonzero(np.any(above, axis=1 - axis))
        middle.append((int(hits[0]) + int(hits[-1])) / 2)
    return np.array([*middle, low_z], dtype=np.float64)


@dataclass(frozen=True)
class Frame:
    """Directions around ``ahead`` as points of a plane, by Lambert's equal-area projection.

    Args:
        axes: Unit vectors to the right and upwards on the map and ahead, one per row, shape ``(3,
            3)``.
    """

    axes: Array

    @classmethod
    def towards(cls, ahead: Array) -> Frame:
        """Return the frame around a direction; the map's first axis is horizontal."""
        right = np.cross(ahead, [0.0, 0.0, 1.0])
        length = float(np.linalg.norm(right))
        right = right / length if length > 1e-6 else np.array([1.0, 0.0, 0.0])
        return cls(np.stack([right, np.cross(right, ahead), ahead]))

    def directions(self, x: Array, y: Array) -> Array:
        """Return unit vectors of points of the map, shape ``(..., 3)``."""
        square = x**2 + y**2
        scale = np.sqrt(np.maximum(1 - square / 4, 0))
        return np.asarray(np.stack([x * scale, y * scale, 1 - square / 2], axis=-1) @ self.axes)

    def project(self, points: Array) -> tuple[Array, Array, Array]:
        """Return map coordinates and distance of points relative to the center, ``(..., 3)``."""
        distance = np.sqrt(np.einsum("...i,...i->...", points, points))
        along = points @ self.axes.T
        # k = sqrt(2 / (1 + cos)) / distance; the opposite pole cannot be mapped
        scale = np.sqrt(2 / np.maximum(distance * (distance + along[..., 2]), 1e-12))
        return along[..., 0] * scale, along[..., 1] * scale, distance


@dataclass(frozen=True)
class Chart:
    """The wall around a direction.

    Args:
        frame: The projection.
        pixel: Edge of a pixel on the unit sphere.
        x: First coordinate of each pixel, shape ``(N, N)``.
        y: Second coordinate.
        looked: Pixels within the map's rim, for which rays were cast.
        open: Pixels whose ray meets no bone.
        wall: Pixels whose ray passes through the vault's wall.
        inner_mm: Distance of the inner surface from the center; valid where ``wall`` is true.
        outer_mm: Distance of the outer surface.
        area_cm2: Area of the outer surface in each pixel; 0 where there is no wall.
    """

    frame: Frame
    pixel: float
    x: Array
    y: Array
    looked: Mask
    open: Mask
    wall: Mask
    inner_mm: Array
    outer_mm: Array
    area_cm2: Array

    def nearest(self, x: Array, y: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the indices of the pixels that contain points of the map."""
        last = self.x.shape[0] - 1
        i, j = (np.rint(c / self.pixel + last / 2).astype(np.intp) for c in (x, y))
        return np.clip(i, 0, last), np.clip(j, 0, last)


def make_chart(
    skull: NDArray[np.uint8], spacing: Array, middle: Array, ahead: Array, half_width: float
) -> Chart:
    """Map the wall.

    Args:
        skull: The mask, shape ``(X, Y, Z)``.
        spacing: Edge of a voxel in mm.
        middle: Origin of the rays as a voxel inside the vault.
        ahead: Unit vector to the center of the map.
        half_width: Radius of the map, below 2.
    """
    reach = _reach(skull.shape, spacing, middle, ahead)
    pixel = max(_PIXEL_VOXELS * float(spacing.min()), _FINEST_PIXEL_MM) / min(reach, 80.0)
    count = int(np.ceil(half_width / pixel))
    axis = np.arange(-count, count + 1) * pixel
    x, y = np.meshgrid(axis, axis, indexing="ij")
    looked = x**2 + y**2 <= half_width**2
    frame = Frame.towards(ahead)
    inner, outer = cast_rays(skull, spacing, middle, frame.directions(x[looked], y[looked]))
    inner_mm, outer_mm = np.zeros_like(x), np.zeros_like(x)
    inner_mm[looked], outer_mm[looked] = inner, outer
    hit = inner_mm > 0
    wall = hit & (outer_mm - inner_mm <= _MAX_WALL_MM)
    wall &= inner_mm > _NOT_DEEPER * np.median(inner_mm[wall]) if wall.any() else False
    area = _areas(x, y, pixel, wall, outer_mm)
    return Chart(frame, pixel, x, y, looked, looked & ~hit, wall, inner_mm, outer_mm, area)


def _reach(shape: tuple[int, ...], spacing: Array, middle: Array, ahead: Array) -> float:
    """Return the length of a ray within the volume in mm."""
    room = np.where(ahead > 0, np.array(shape) - middle, middle) * spacing
    return float(np.min(room / np.maximum(np.abs(ahead), 1e-6)))


def cast_rays(
    skull: NDArray[np.uint8], spacing: Array, middle: Array, rays: Array
) -> tuple[Array, Array]:
    """Return the distances at which rays enter and leave the wall in mm; 0 for rays that miss.

    The wall is the first bone from inside; gaps up to the width of a sinus belong to it.
    """
    step = float(spacing.min()) * _STEP_VOXELS
    extent = float(np.linalg.norm(np.array(skull.shape) * spacing))
    radii = np.arange(_NEAREST_MM, min(extent, _FARTHEST_MM), step)
    flat = np.zeros((len(rays), len(radii)), dtype=np.intp)
    valid = np.ones(flat.shape, dtype=bool)
    strides = skull.shape[1] * skull.shape[2], skull.shape[2], 1
    # Axis by axis, since an array of points takes three times as long.
    for ray, edge, start, count, stride in zip(
        rays.T, spacing, middle, skull.shape, strides, strict=True
    ):
        place = np.multiply.outer(ray / edge, radii) + (start + 0.5)
        valid &= (place >= 0) & (place < count)
        flat += place.astype(np.intp) * stride
    bone = np.take(np.ravel(skull), flat, mode="clip") != 0
    bone &= valid
    steps = np.arange(len(radii))
    latest = np.maximum.accumulate(np.where(bone, steps, -1), axis=1)
    over = (latest >= 0) & (steps - latest > _SINUS_MM / step)
    stop = np.where(over.any(axis=1), over.argmax(axis=1), len(radii) - 1)
    last = latest[np.arange(len(rays)), stop]
    # A sample represents half a step on either side.
    inner = np.where(last >= 0, radii[bone.argmax(axis=1)] - step / 2, 0)
    return inner, np.where(last >= 0, radii[np.maximum(last, 0)] + step / 2, 0)


def _areas(x: Array, y: Array, pixel: float, wall: Mask, outer_mm: Array) -> Array:
    """Return the area of the outer surface in each pixel in cm2.

    A surface at the distance r has the area r^2 sqrt(1 + |grad log r|^2) per solid angle. The
    distance is smoothed first, since the steps of voxels would increase the area.
    """
    if not wall.any():
        return np.zeros_like(x)
    sigma = _SMOOTH_MM / (pixel * float(np.median(outer_mm[wall])))
    weight = ndimage.gaussian_filter(wall.astype(np.float64), sigma)
    log = ndimage.gaussian_filter(np.where(wall, np.log(np.maximum(outer_mm, 1)), 0), sigma)
    log = log / np.maximum(weight, 1e-6)
    by_x, by_y = np.gradient(log, pixel)
    square = x**2 + y**2
    shrink = np.maximum(1 - square / 4, 1e-6)  # cos^2 of half the angle from the center of the map
    radial = (x * by_x + y * by_y) ** 2 / np.maximum(square, 1e-12)
    across = by_x**2 + by_y**2 - radial
    slope = np.minimum(radial * shrink + across / shrink, _STEEPEST**2)
    return np.where(wall, np.exp(2 * log) * np.sqrt(1 + slope) * pixel**2 / 100, 0)
