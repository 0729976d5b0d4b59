"""Resampling of sheared volumes to a rectangular grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.preparation._between import from_level, to_level
from famseg.preparation._types import Kind
from famseg.volumes import Volume

_RIGHT_ANGLES = 1e-3  # cosines up to this are rounding errors

Matrix = NDArray[np.float64]


def straightened(volume: Volume, kind: Kind) -> tuple[Volume, tuple[str, ...]]:
    """Return a volume with orthogonal axes, and a note if it had to be resampled.

    The two axes closest to a right angle, which are those of the slices, are kept; the third
    becomes their normal. This undoes a gantry tilt that a converter left in the affine.

    Args:
        volume: The volume, with any affine that is not singular.
        kind: Kind of its values: CT numbers are interpolated without moving the surface of the
            bone, labels are taken from the nearest voxel.
    """
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosines = np.abs(axes.T @ axes - np.eye(3))
    if cosines.max() <= _RIGHT_ANGLES:
        return volume, ()
    affine, shape = _straight_grid(volume, cosines)
    to_index = np.linalg.inv(volume.affine) @ affine
    array = _resampled(volume.array, kind, to_index, shape)
    degrees = float(np.rad2deg(np.arcsin(min(1.0, cosines.max()))))
    return Volume(array, affine, volume.path), (
        f"The header's axes are up to {degrees:.1f} degrees off right angles (a tilted gantry, or "
        "a registration): resampled onto a grid at right angles.",
    )


def _straight_grid(volume: Volume, cosines: Matrix) -> tuple[Matrix, tuple[int, int, int]]:
    """Return affine and shape of a rectangular grid that covers a sheared one."""
    linear = volume.affine[:3, :3]
    pairs = ((0, 1), (0, 2), (1, 2))
    first, second = min(pairs, key=lambda pair: float(cosines[pair]))
    third = 3 - first - second
    straight = np.empty((3, 3))
    straight[:, first] = linear[:, first]
    along = linear[:, first] / np.linalg.norm(linear[:, first])
    across = linear[:, second] - along * (along @ linear[:, second])
    straight[:, second] = across
    normal = np.cross(along, across / np.linalg.norm(across))
    straight[:, third] = normal * (normal @ linear[:, third])
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.array.shape) - 1)
    places = corners @ (np.linalg.inv(straight) @ linear).T
    low = places.min(axis=0)
    x, y, z = (int(n) for n in np.ceil(places.max(axis=0) - low - 1e-6) + 1)
    affine = np.eye(4)
    affine[:3, :3] = straight
    affine[:3, 3] = volume.affine[:3, 3] + straight @ low
    return affine, (x, y, z)


def _resampled(
    array: NDArray[Any], kind: Kind, to_index: Matrix, shape: tuple[int, int, int]
) -> NDArray[Any]:
    options: dict[str, Any] = {
        "offset": to_index[:3, 3],
        "output_shape": shape,
        "mode": "constant",
        "prefilter": False,
    }
    if kind == "mask":
        return np.asarray(
            ndimage.affine_transform(array, to_index[:3, :3], order=0, cval=0, **options)
        )
    lowest = float(array.min())
    values = to_level(array) if kind == "hounsfield" else array.astype(np.float32)
    outside = to_level(np.array(lowest)) if kind == "hounsfield" else lowest
    moved = ndimage.affine_transform(
        values, to_index[:3, :3], order=1, cval=float(outside), **options
    )
    moved = from_level(moved) if kind == "hounsfield" else moved
    whole = array.dtype.kind in "iu"
    return np.asarray(np.round(moved) if whole else moved).astype(array.dtype)
