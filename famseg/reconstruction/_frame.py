"""Resampling between the voxels of a scan and the cubic frame of a network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from famseg.messages import InputError
from famseg.preparation.steps import (
    BoneField,
    Box,
    Grid,
    coverage,
    dome_rays,
    first_bone,
    moved_points,
)

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

# Position of the inner surface of a vault: its top, as a share of the height of the cube, and its
# center, in mm behind that of the cube. In a cube of 224 mm, embedded skulls have .85 and 5 mm,
# those of `famseg prepare` .90 and 8 mm; networks are trained with shifts of about 10 mm.
_TOP_SHARE = 0.88
_BEHIND_MM = 6.0

_LOOK_MM = 3.5  # size of the voxels for fitting the ellipsoid, independent of the input
_LOWEST_DEG = -10.0  # lower rays meet orbits and the base
_RAYS_STEP = 4  # of the rays of the check of the vault, which leaves 1,500
_USUAL_MM = (66.0, 82.0, 68.0)  # typical semi-axes of the inner surface to the right, front and top
_USUAL_WEIGHT = 0.1  # relative to all rays; without it a defect leaves an axis undetermined
_ROBUST_MM = 3.0
_NEAREST_MM, _FARTHEST_MM = 25.0, 130.0
_ROUNDS = 3
_FEWEST = 0.33  # of the rays must meet a vault: half of a head has 0.36, dense noise 0.28
_NEAR_MM = 12.0  # tolerance around the ellipsoid


@dataclass(frozen=True, eq=False)
class Vault:
    """The ellipsoid fitted to the inner surface of a vault.

    Args:
        middle_mm: Its center in mm of the world.
        half_axes_mm: Its semi-axes to the right, front and top.
    """

    middle_mm: Floats
    half_axes_mm: Floats

    @property
    def top_mm(self) -> float:
        """Height of its top, which changes by at most 4 mm with a defect of the vault."""
        return float(self.middle_mm[2] + self.half_axes_mm[2])


@dataclass(frozen=True, eq=False)
class Frame:
    """The cubic voxel grid of a network's input, in the world of the patient.

    Args:
        size: Voxels along each edge.
        spacing_mm: Edge of a voxel.
        affine: Maps its indices to mm in RAS+, shape ``(4, 4)``; axes to the right, front and top.
    """

    size: int
    spacing_mm: float
    affine: Floats

    def shares(self, field: BoneField) -> NDArray[np.float32]:
        """Return the share of each voxel of the cube that is bone, ``(S, S, S)``, 0 to 1.

        Each voxel is supersampled (`famseg.preparation.coverage`) to avoid aliasing. A 128^3 cube
        takes about 3 s, 64^3 about 1 s.
        """
        grid = Grid((self.size,) * 3, self.affine, self.size - 1)
        return coverage(field, np.eye(4), grid)

    def to_grid(
        self, values: NDArray[np.float32], affine: Floats, shape: tuple[int, int, int]
    ) -> NDArray[np.float32]:
        """Return values of the cube interpolated linearly to the voxels of another grid.

        Args:
            values: One for each voxel of the cube, ``(S, S, S)``.
            affine: Affine of the other grid.
            shape: Shape of the other grid.

        Returns:
            Values at the middles of its voxels, 0 outside of the cube. Takes 0.1 microseconds for
            each voxel of the box around those of the cube that are not 0.
        """
        found = np.zeros(shape, dtype=np.float32)
        box = self.box_in_grid(values != 0, affine, shape)
        if found[box].size:
            to_index = np.linalg.inv(self.affine) @ affine
            ndimage.affine_transform(
                np.asarray(values, dtype=np.float32),
                to_index[:3, :3],
                offset=to_index[:3, 3] + to_index[:3, :3] @ [side.start for side in box],
                output=found[box],
                order=1,
                mode="grid-constant",
                prefilter=False,
            )
        return found

    def box_in_grid(self, mask: Mask, affine: Floats, shape: tuple[int, int, int]) -> Box:
        """Return the box of another grid that some voxels of the cube reach when interpolated.

        Args:
            mask: Voxels of the cube, ``(S, S, S)``.
            affine: Of the other grid.
            shape: Of the other grid.
        """
        places = np.argwhere(mask)
        if not len(places):
            return slice(0, 0), slice(0, 0), slice(0, 0)
        ends = np.array([places.min(axis=0) - 1, places.max(axis=0) + 1])  # where they fade out
        corners = moved_points(ends[np.indices((2, 2, 2)).reshape(3, -1).T, range(3)], self.affine)
        corners = moved_points(corners, np.asarray(np.linalg.inv(affine), dtype=np.float64))
        low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, shape).tolist()
        high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, shape).tolist()
        x, y, z = (slice(a, b) for a, b in zip(low, high, strict=True))
        return x, y, z


def place_frame(vault: Vault, *, size: int, spacing_mm: float) -> Frame:
    """Place the cube over the vault as in training, regardless of missing parts of the head.

    The center (x, y) and the top (z) of the ellipsoid in the vault are placed as in the training
    heads. A missing lower face or a defect of the vault shifts the cube by at most a few mm, which
    the shifts in training cover. Nothing is rounded to voxels, so that rotated or flipped grids
    give the same cube.

    Args:
        vault: From `fit_vault`.
        size: Voxels along each edge of the cube.
        spacing_mm: Edge of a voxel of the cube.

    Example:
        >>> vault = Vault(np.zeros(3), np.array([66.0, 82.0, 68.0]))
        >>> frame = place_frame(vault, size=64, spacing_mm=3.5)
        >>> frame.affine[:3, 3].round(2).tolist()  # its first voxel
        [-110.25, -104.25, -127.37]
    """
    above = (_TOP_SHARE - 0.5) * size * spacing_mm
    x, y = vault.middle_mm[:2].tolist()
    middle = np.array([x, y + _BEHIND_MM, vault.top_mm - above])
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = middle - (size - 1) / 2 * spacing_mm
    return Frame(size, spacing_mm, affine)


def fit_vault(field: BoneField) -> Vault:
    """Fit an ellipsoid to the inner surface of a vault, robust to defects.

    Rays above -10 degrees start at the center; their first bone is the inner surface. Radial
    distances are fitted (soft L1 loss with a scale of 3 mm), with the semi-axes regularized towards
    typical heads by a tenth of the weight. In the next round, rays start at the new center.

    Args:
        field: Bone, from `famseg.preparation.bone_field`.

    Raises:
        InputError: If too few rays meet bone near the ellipsoid, so that there is no skull, or only
            noise.
    """
    shares, affine = _look(field)
    mask = (shares > 0.4).astype(np.uint8)
    if not mask.any():
        raise InputError(
            "no skull was found: its bone is thinner than the voxels of the scan can show"
        )
    rays, edge = dome_rays(_LOWEST_DEG)[::_RAYS_STEP], np.full(3, _LOOK_MM)
    middle = _start(mask)
    for _ in range(_ROUNDS):
        radius = first_bone(mask, middle, rays, edge)
        met = np.isfinite(radius) & (radius > _NEAREST_MM) & (radius < _FARTHEST_MM)
        if met.mean() < _FEWEST:
            raise InputError(_no_vault(float(met.mean())))
        points = middle * _LOOK_MM + rays[met] * radius[met, None]
        found = _ellipsoid(points, middle * _LOOK_MM)
        middle = np.clip(found[:3] / _LOOK_MM, 0, np.array(mask.shape) - 1.0)
    scaled = np.linalg.norm((points - found[:3]) / found[3:], axis=1)
    near = np.count_nonzero(np.abs(scaled - 1) * found[3:].mean() < _NEAR_MM) / len(rays)
    if near < _FEWEST:
        raise InputError(_no_vault(near))
    return Vault(moved_points(found[:3] / _LOOK_MM, affine), found[3:])


def _no_vault(share: float) -> str:
    return (
        f"no vault was found: only {100 * share:.0f} % of the rays from its center meet bone where "
        "a vault has bone; is this a skull, and is its top up?"
    )


def _look(field: BoneField) -> tuple[NDArray[np.float32], Floats]:
    """Return shares of bone on voxels of 3.5 mm around the whole skull, with their affine."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(field.values.shape) - 1)
    world = moved_points(corners, field.affine)
    low, high = world.min(axis=0), world.max(axis=0)
    x, y, z = (int(n) + 2 for n in np.ceil((high - low) / _LOOK_MM))
    affine = np.diag([_LOOK_MM] * 3 + [1.0])
    affine[:3, 3] = (low + high) / 2 - _LOOK_MM * (np.array([x, y, z]) - 1) / 2
    return coverage(field, np.eye(4), Grid((x, y, z), affine, z - 1)), affine


def _start(mask: NDArray[np.uint8]) -> Floats:
    """Return a voxel in the cranial cavity: 60 mm below the top, centered below the bone."""
    top = int(np.flatnonzero(mask.any(axis=(0, 1)))[-1])
    low = max(top - round(60 / _LOOK_MM), 0)
    above = np.asarray(mask[:, :, low:].any(axis=2))
    ends = [np.flatnonzero(above.any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
    return np.array([*(float(end.mean()) for end in ends), float(low)])


def _ellipsoid(points_mm: Floats, start_mm: Floats) -> Floats:
    """Return center and semi-axes of the axis-aligned ellipsoid that fits points, ``(6,)``."""
    usual = np.array(_USUAL_MM)
    weight = _USUAL_WEIGHT * np.sqrt(len(points_mm))

    def residuals(p: Floats) -> Floats:
        scaled = np.linalg.norm((points_mm - p[:3]) / p[3:], axis=1)
        return np.concatenate([(scaled - 1) * usual.mean(), weight * (p[3:] - usual)])

    start = np.concatenate([start_mm, usual])
    reach = np.array([60.0] * 3 + [30.0] * 3)  # an ellipsoid outside these bounds is not a vault
    found = optimize.least_squares(
        residuals,
        start,
        bounds=(start - reach, start + reach * [1, 1, 1, 1, 1, 2]),
        loss="soft_l1",
        f_scale=_ROBUST_MM,
    )
    return np.asarray(found.x, dtype=np.float64)
