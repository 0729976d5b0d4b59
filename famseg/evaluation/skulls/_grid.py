"""Comparison of grids, with exact reordering of axes, or resampling on request."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from famseg.messages import InputError
from famseg.metrics import flat_axis
from famseg.volumes import Volume

_logger = logging.getLogger("famseg")

# Headers have few digits, so corners of the image may differ by this fraction of a voxel. At half a
# voxel, a voxel would be confused with its neighbor.
_SAME_VOXELS = 0.1


def on_grid(volume: Volume, reference: Volume, *, resample: bool = False) -> npt.NDArray[Any]:
    """Return the values of a volume in the voxels of another one.

    Flipped and permuted axes are reordered, which does not change values. The agreement of the
    grids is then measured in voxels at the corners of the image, since even a small angle may move
    them far.

    Args:
        volume: The volume to bring to the grid.
        reference: The volume with that grid.
        resample: Use nearest-neighbor interpolation if the grids differ, with 0 outside the volume.
            The log states how much of its foreground lies outside the reference.

    Returns:
        Values with the type of the volume and the shape of the reference; a view if nothing is
        resampled.

    Raises:
        InputError: If the grids differ without ``resample``, they do not overlap, or only one is a
            slice.
    """
    ordered = _reordered(volume, reference)
    slices = [flat_axis(each.array.shape) is not None for each in (ordered, reference)]
    if slices[0] != slices[1]:
        kinds = ["a slice" if each else "a volume" for each in slices]
        raise InputError(
            f"{volume.path}: is {kinds[0]} and {reference.path} {kinds[1]}. Give the same slice of "
            "both, or both volumes."
        )
    if ordered.array.shape == reference.array.shape and _apart(ordered, reference) <= _SAME_VOXELS:
        return ordered.array
    if resample:
        return _resampled(ordered, reference)
    raise InputError(
        f"{volume.path}: is not on the grid of {reference.path}: "
        f"{'; '.join(_differences(ordered, reference))}. Resample it to that grid by nearest "
        "neighbor (--resample), or fix the header that is wrong."
    )


def _reordered(volume: Volume, reference: Volume) -> Volume:
    """Return a volume with its axes flipped and permuted to match those of the reference."""
    to_reference = np.linalg.inv(reference.affine) @ volume.affine
    # Normalized by spacings, so that the longest step does not determine the order of axes.
    to_reference[:3, :3] *= np.array(reference.spacing_mm)[:, None] / np.array(volume.spacing_mm)
    order = nibabel.io_orientation(to_reference)
    moved = nibabel.orientations.inv_ornt_aff(order, volume.array.shape)
    array = nibabel.apply_orientation(volume.array, order)
    return Volume(array, volume.affine @ moved, volume.path)


def _apart(volume: Volume, reference: Volume) -> float:
    """Return the largest distance in voxels along any axis between corners of equal-sized grids."""
    corners = _corners(volume.array.shape)
    found = (np.linalg.inv(reference.affine) @ volume.affine @ corners.T).T - corners
    return float(np.abs(found).max())


def _corners(shape: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the indices of the corner voxels, shape ``(8, 4)``, with a 1 for the translation."""
    ends = np.array(list(np.ndindex(2, 2, 2)), dtype=float) * (np.array(shape) - 1)
    return np.hstack([ends, np.ones((8, 1))])


def _resampled(volume: Volume, reference: Volume) -> npt.NDArray[Any]:
    to_volume = np.linalg.inv(volume.affine) @ reference.affine
    found: npt.NDArray[Any] = ndimage.affine_transform(
        volume.array,
        to_volume[:3, :3],
        to_volume[:3, 3],
        output_shape=reference.array.shape,
        order=0,
        mode="grid-constant",  # includes the outer half of the voxels at the border
    )
    there = np.argwhere(volume.array != 0)
    if len(there):
        index = there @ np.linalg.inv(to_volume)[:3, :3].T + np.linalg.inv(to_volume)[:3, 3]
        size = np.array(reference.array.shape)
        outside = float(((index < -0.5) | (index > size - 0.5)).any(axis=1).mean())
        if outside == 1:
            raise InputError(
                f"{volume.path}: all of its foreground lies outside the grid of {reference.path}. "
                "Are both of the same subject, and are the headers correct?"
            )
        if outside:
            _logger.warning(
                "%s: %.2g %% of its foreground lies outside the grid of %s and is not scored",
                volume.path,
                100 * outside,
                reference.path,
            )
    return found


def _differences(volume: Volume, reference: Volume) -> list[str]:
    """Return the differences between two grids whose axes have the same order."""
    parts = []
    same_shape = volume.array.shape == reference.array.shape
    if not same_shape:
        parts.append(f"shape {_text(volume.array.shape)} against {_text(reference.array.shape)}")
    spacing, wanted = np.array(volume.spacing_mm), np.array(reference.spacing_mm)
    size = np.array(reference.array.shape)
    if (np.abs(spacing - wanted) * size > _SAME_VOXELS * wanted).any():
        parts.append(f"spacing {_text(spacing)} against {_text(wanted)} mm")
    axes, wanted_axes = volume.affine[:3, :3] / spacing, reference.affine[:3, :3] / wanted
    chord = np.linalg.norm(axes - wanted_axes) / np.sqrt(8)
    angle = float(np.rad2deg(2 * np.arcsin(min(chord, 1))))
    if np.abs(axes - wanted_axes).max() * size.max() > _SAME_VOXELS:
        parts.append(f"turned by {angle:.2g} degrees")
    origin, wanted_origin = volume.affine[:3, 3], reference.affine[:3, 3]
    if (np.abs(origin - wanted_origin) > _SAME_VOXELS * wanted.min()).any():
        parts.append(f"origin {_text(origin)} against {_text(wanted_origin)} mm")
    if same_shape:
        corners = _corners(reference.array.shape)
        apart = ((volume.affine - reference.affine) @ corners.T)[:3]
        farthest = float(np.linalg.norm(apart, axis=0).max())
        parts.append(f"corners of the image are up to {farthest:.3g} mm apart")
    return parts


def _text(numbers: Sequence[float] | npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{float(number):.6g}" for number in numbers)
