r"""Surfaces of binary masks and exact distances between them.

Two discrete surfaces of a mask are in use, and they measure different things:

- **Voxel borders**: foreground voxels with a background voxel among their six neighbors. A border
  is a set of voxel centers, each with the same weight. MONAI, medpy and AutoImplant use it.
- **Surface elements**: one element for each group of 2 x 2 x 2 voxels that contains both foreground
  and background. It is located at the point that the eight voxels share, and its weight is the area
  of the surface between them, so that a statistic over elements is an integral over the surface. An
  oblique wall has more elements per square millimeter than one along the grid; the weights correct
  for that. DeepMind's surface-distance uses them (Nikolov et al., J Med Internet Res 23, 2021),
  with the triangles of marching cubes for the area; `_areas` says which area is used here.

Distances are Euclidean and exact. Both masks are cropped to their joint bounding box, which is
processed in slabs: in addition to the masks this takes little more than one byte per voxel.

A slice, one voxel thick, has no surface at its two faces: it is continued beyond them, so that its
borders and elements are those of its outline, and lengths take the place of areas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from famseg.metrics._areas import Floats, Spacing, area_table
from famseg.metrics._distances import (
    UNIT,
    Bytes,
    Field,
    Map,
    Mask,
    fill_gaps,
    points_image,
    slabs,
)
from famseg.metrics._profile import Profile, Tally

__all__ = [
    "Distances",
    "Floats",
    "Mask",
    "Spacing",
    "area_table",
    "border",
    "bounding_box",
    "distances_at",
    "distances_mm_and_voxels",
    "elements",
    "flat_axis",
    "surface_distances",
]

_FULL = 255  # code of a group of foreground voxels only
# Weights of the labels of a border: 1 for label 1, a voxel of the border, and 0 for all others.
_ONCE: Floats = np.repeat([0.0, 1.0, 0.0], (1, 1, 254))


@dataclass(frozen=True)
class Distances:
    """Distances between the surfaces of a prediction and its reference, in one unit.

    Args:
        border_to_truth: From the border voxels of the prediction to the border of the reference,
            each voxel with weight 1.
        border_to_prediction: The opposite direction.
        element_to_truth: From the surface elements of the prediction to those of the reference,
            with their area in the squared unit as weight.
        element_to_prediction: The opposite direction.
    """

    border_to_truth: Profile
    border_to_prediction: Profile
    element_to_truth: Profile
    element_to_prediction: Profile

    def scaled(self, length: float) -> Distances:
        """Return the distances in another unit; ``length`` is the present unit in the new one."""
        return Distances(
            self.border_to_truth.scaled(length),
            self.border_to_prediction.scaled(length),
            self.element_to_truth.scaled(length, length**2),
            self.element_to_prediction.scaled(length, length**2),
        )


def surface_distances(prediction: Mask, truth: Mask, spacing: Spacing) -> Distances:
    """Return the distances between the surfaces of two masks, in both directions.

    With cubic voxels, distances are measured in voxels, which is several times faster, and scaled.
    Time and memory are linear in the joint bounding box of the masks.

    Args:
        prediction: Mask, shape ``(X, Y, Z)``, not empty.
        truth: Mask of the same shape, not empty.
        spacing: Edge lengths of a voxel; distances have their unit.
    """
    if _cubic(spacing):
        return _measured(prediction, truth, [UNIT])[0].scaled(max(spacing))
    return _measured(prediction, truth, [spacing])[0]


def distances_mm_and_voxels(
    prediction: Mask, truth: Mask, spacing_mm: Spacing
) -> tuple[Distances, Distances]:
    """Return the distances between the surfaces of two masks, in mm and in voxels.

    Args:
        prediction: Mask, shape ``(X, Y, Z)``, not empty.
        truth: Mask of the same shape, not empty.
        spacing_mm: Edge lengths of a voxel.
    """
    if _cubic(spacing_mm):
        in_voxels = surface_distances(prediction, truth, UNIT)
        return in_voxels.scaled(max(spacing_mm)), in_voxels
    in_mm, in_voxels = _measured(prediction, truth, [spacing_mm, UNIT])
    return in_mm, in_voxels


def _cubic(spacing: Spacing) -> bool:
    """Whether distances can be measured in voxels, where their squares are whole numbers."""
    return max(spacing) - min(spacing) < 1e-6 * max(spacing)


def flat_axis(shape: Sequence[int]) -> int | None:
    """Return the axis across a slice: the only one with a single voxel; None if it is not a slice.

    Example:
        >>> flat_axis((9, 1, 9)), flat_axis((9, 9, 9)), flat_axis((9, 1, 1))
        (1, None, None)
    """
    single = [axis for axis, length in enumerate(shape) if length == 1]
    return single[0] if len(single) == 1 else None


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Return the slices of the smallest box around a mask that is not empty."""
    slices = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        slices.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(slices)


def border(mask: Mask) -> Mask:
    """Return the foreground voxels with a background voxel at a face, or at the grid's border."""
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
    """Return the places of the surface elements of a mask, and their areas.

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
    where: Mask = (codes != 0) & (codes != _FULL)
    return where, area_table(spacing)[codes[where]]


def distances_at(features: Mask, queries: Mask, spacing: Spacing) -> Floats:
    """Return the distance from each query to the nearest feature, both masks on one grid.

    Args:
        features: Points to measure to, at least one, shape ``(X, Y, Z)``.
        queries: Points to measure from, same shape.
        spacing: Distances between neighboring points along each axis.

    Returns:
        One distance for each query, in C order. Squares are stored in single precision: exact for
        unit spacing, otherwise with a relative error below 1e-6.
    """
    if not queries.any():
        return np.zeros(0)
    squares = Map(points_image(features, spacing)).squares(slice(None), queries.reshape(-1))
    found: Floats = squares.astype(np.float64)
    return np.sqrt(found, out=found)


class _Surface(Protocol):
    """The surface points of one kind on a grid, computed slab by slab."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the grid."""

    def labels(self, slab: slice) -> Bytes:
        """Return the label of each place of a slab; 0 where there is no point."""

    def weights(self, spacing: Spacing) -> Floats:
        """Return the weight of a point with each of 256 labels."""


@dataclass(frozen=True)
class _Border:
    mask: Mask
    flat: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mask.shape

    def labels(self, slab: slice) -> Bytes:
        near = _padded(self.mask, slab.start, slab.stop + 2, self.flat)
        center = near[1:-1, 1:-1, 1:-1]
        inner = near[:-2, 1:-1, 1:-1] & near[2:, 1:-1, 1:-1]
        inner &= near[1:-1, :-2, 1:-1]
        inner &= near[1:-1, 2:, 1:-1]
        inner &= near[1:-1, 1:-1, :-2]
        inner &= near[1:-1, 1:-1, 2:]
        return (center & ~inner).view(np.uint8)

    def weights(self, spacing: Spacing) -> Floats:
        return _ONCE


@dataclass(frozen=True)
class _Elements:
    """The labels are the codes of the 2 x 2 x 2 groups, for which `area_table` has the areas."""

    mask: Mask
    flat: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(length + 1 for length in self.mask.shape)

    def labels(self, slab: slice) -> Bytes:
        codes = _codes(_padded(self.mask, slab.start, slab.stop + 1, self.flat))
        codes *= (codes != _FULL).view(np.uint8)  # inside the mask there is no surface
        return codes

    def weights(self, spacing: Spacing) -> Floats:
        return area_table(spacing)


def _measured(prediction: Mask, truth: Mask, spacings: Sequence[Spacing]) -> list[Distances]:
    flat = flat_axis(
        prediction.shape
    )  # of the whole image, since the box around a thin plate in a volume is not a slice
    box = bounding_box(prediction | truth)
    prediction, truth = prediction[box], truth[box]
    found: list[list[Profile]] = [[] for _ in spacings]
    for kind in (_Border, _Elements):
        one, other = kind(prediction, flat), kind(truth, flat)
        for start, end in ((one, other), (other, one)):
            for profiles, profile in zip(found, _profiles(start, end, spacings), strict=True):
                profiles.append(profile)
    return [Distances(*profiles) for profiles in found]


def _profiles(start: _Surface, end: _Surface, spacings: Sequence[Spacing]) -> list[Profile]:
    """Return the distances from the points of one surface to the other's, for each spacing."""
    profiles = []
    gaps: Bytes | None = None
    # The steps are computed once and passed from field to field. A field that needs a map of the
    # whole grid drops them to save memory; the next one then computes them again.
    for spacing in spacings:
        field = Field(_gaps(end) if gaps is None else gaps, spacing)
        gaps = None
        profiles.append(_profile(start, field, spacing))
        gaps = field.gaps
    return profiles


def _profile(start: _Surface, field: Field, spacing: Spacing) -> Profile:
    tally = Tally(start.weights(spacing))
    for slab in slabs(start.shape):
        labels = start.labels(slab).reshape(-1)
        places = np.flatnonzero(labels != 0)
        if len(places):
            tally.add(field.squares(slab, places), labels[places])
    return tally.profile()


def _gaps(surface: _Surface) -> Bytes:
    """Return the steps to the nearest point of a surface along the first axis."""
    gaps = np.empty(surface.shape, dtype=np.uint8)
    for slab in slabs(surface.shape):
        # 0 at a point of the surface; minus 1 modulo 256 is 255 elsewhere.
        np.negative((surface.labels(slab) == 0).view(np.uint8), out=gaps[slab])
    fill_gaps(gaps)
    return gaps


def _padded(mask: Mask, start: int, stop: int, flat: int | None) -> Mask:
    """Return planes of a mask that is padded by one background voxel on every side.

    Along the axis across a slice, the padding repeats the slice. The margin on both sides makes the
    surface closed for masks that touch the edge of the bounding box.
    """
    planes, rows, length = mask.shape
    padded = np.zeros((stop - start, rows + 2, length + 2), dtype=np.bool_)
    first, last = max(start - 1, 0), min(stop - 1, planes)
    padded[first + 1 - start : last + 1 - start, 1:-1, 1:-1] = mask[first:last]
    if flat == 0:
        padded[:, 1:-1, 1:-1] = mask
    elif flat is not None:
        sides = np.moveaxis(padded, flat, 0)
        sides[0] = sides[2] = sides[1]
    return padded


def _codes(padded: Mask) -> Bytes:
    """Return the code of each 2 x 2 x 2 group, shape one less along each axis.

    Bit ``dx + 2 dy + 4 dz`` of the code is the voxel at that offset. Joining two planes at a time
    takes three passes instead of eight.
    """
    one, two, four = np.uint8(1), np.uint8(2), np.uint8(4)
    bits = padded.view(np.uint8)
    bits = bits[:-1] | (bits[1:] << one)
    bits = bits[:, :-1] | (bits[:, 1:] << two)
    return bits[:, :, :-1] | (bits[:, :, 1:] << four)
