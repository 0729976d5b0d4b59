"""The coordinate frame of a phantom, and the smallest thickness that its grid can represent.

The head's frame has its origin at the center of the cranial cavity; x points to the right, y to the
front and z upwards, in mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from famseg.datasets.phantoms._implicit import Array, Field, ellipsoid, tapered
from famseg.datasets.phantoms._parameters import PhantomParameters

# No face-connected path crosses a wall of at least max(|n|) voxels, with n its unit normal
# (arithmetic planes); 1.1 leaves a margin for curvature.
MIN_WALL_VOXELS = 1.1
_MIN_RADIUS_VOXELS = 0.8
_HEAD_ABOVE_MIDDLE_MM = 3.0  # centers an average head with its face in the grid

Point = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Scene:
    """One subject on one grid.

    Args:
        p: The anatomy.
        spacing: Edge of a voxel in mm.
        x: Coordinate of each voxel in the head, to the right, shape of the grid.
        y: The same to the front.
        z: The same upwards.
    """

    p: PhantomParameters
    spacing: float
    x: Array
    y: Array
    z: Array

    @property
    def front(self) -> float:
        """Half of the cranial length."""
        return self.p.length_mm / 2

    @property
    def side(self) -> float:
        """Half of the cranial breadth."""
        return self.p.breadth_mm / 2

    @property
    def cheek(self) -> float:
        """Half of the breadth across the zygomatic arches."""
        return self.p.bizygomatic_mm / 2

    @property
    def base_z(self) -> float:
        """Height of the foramen magnum."""
        return -0.40 * self.p.height_mm * self.p.base_depth

    @property
    def top_z(self) -> float:
        """Height of the vertex."""
        return self.p.height_mm + self.base_z

    @property
    def teeth_z(self) -> float:
        """Height of the alveolar edge."""
        return -12.0 - self.p.face_height_mm

    def wall(self, thickness: float) -> float:
        """Return a thickness in mm that this grid can represent without gaps."""
        return max(thickness, MIN_WALL_VOXELS * self.spacing)

    def tube(self, radius: float) -> float:
        """Return a radius in mm that this grid can represent without gaps."""
        return max(radius, _MIN_RADIUS_VOXELS * self.spacing)

    def capsule(
        self, field: Field, start: Point, end: Point, radii: tuple[float, float], blend: float
    ) -> None:
        """Add a rod of bone with a linearly changing radius."""
        r0, r1 = (self.tube(r) for r in radii)
        reach = max(r0, r1)
        low = [min(a, b) - reach for a, b in zip(start, end, strict=True)]
        high = [max(a, b) + reach for a, b in zip(start, end, strict=True)]
        field.join(tapered(start, end, r0, r1), low, high, blend)

    def solid(self, field: Field, center: Point, radii: Point, blend: float) -> None:
        """Add an ellipsoid of bone."""
        sizes = [self.tube(r) for r in radii]
        low = [c - r for c, r in zip(center, sizes, strict=True)]
        high = [c + r for c, r in zip(center, sizes, strict=True)]
        field.join(ellipsoid(center, sizes), low, high, blend)

    def hollow(self, field: Field, center: Point, radii: Point) -> None:
        """Carve an ellipsoid out."""
        low = [c - r for c, r in zip(center, radii, strict=True)]
        high = [c + r for c, r in zip(center, radii, strict=True)]
        field.carve(ellipsoid(center, radii), low, high, blend=1.0)


def make_scene(p: PhantomParameters, size: int, spacing: float) -> Scene:
    """Return the scene of one subject, with position, tilt, waves and skew undone per voxel."""
    c = ((np.arange(size) - (size - 1) / 2) * spacing).astype(np.float32)
    turn = _rotation(p.pitch_deg, p.roll_deg, p.yaw_deg)
    shift = (p.offset_x_mm, p.offset_y_mm, p.offset_z_mm + _HEAD_ABOVE_MIDDLE_MM)
    gx, gy, gz = (
        (c - np.float32(s)).reshape(shape)
        for s, shape in zip(shift, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
    )
    still = [turn[0, i] * gx + turn[1, i] * gy + turn[2, i] * gz for i in range(3)]
    moved = [axis.copy() for axis in still]
    for wave in p.waves.astype(np.float32):
        swing = np.sin(wave[3] * still[0] + wave[4] * still[1] + wave[5] * still[2] + wave[6])
        for target, amplitude in zip(moved, wave[:3], strict=True):
            target += amplitude * swing
    x, y, z = moved
    y = y + np.float32(p.skew) * x
    x = x * (1 - np.float32(p.side_difference) * np.tanh(x / np.float32(30)))
    return Scene(p, spacing, x, y, z)


def smoothstep(t: Array) -> Array:
    """Return 0 below 0, 1 above 1, and a smooth transition in between."""
    t = np.clip(t, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def _rotation(pitch_deg: float, roll_deg: float, yaw_deg: float) -> NDArray[np.float32]:
    a, b, c = np.deg2rad([pitch_deg, roll_deg, yaw_deg])
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.asarray(np.array(about_z) @ about_y @ about_x, dtype=np.float32)
