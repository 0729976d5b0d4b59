"""The inner and outer surface of the wall across a defect, with the voxels between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.reconstruction._chart import Array, Chart, Mask, Wall
from famseg.reconstruction._fill import fill

MARGIN_MM = 16.0
"""Distance around a defect up to which the wall is measured."""

_SMOOTH_MM = 2.0  # shorter waves in the measured wall are due to voxels
_SMOOTH_VOXELS = 1.1
_TENSIONS = (1e-3, 1e-2)  # mm^-2, of outer surface and width; effective beyond 30 and 10 mm
_PULL = 1e-3  # weight of a prediction relative to that of measured bone
_BIAS_FROM_MM = 15.0
_OUTLIER_MM = 2.5
_ROUNDS = 3
_LEAST_COMMON = 50  # pixels
_MOST_OFF_MM = 6.0  # largest offset between the sides of a head
_WIDEST = 2.0  # times the usual width; a wider wall includes the base, an arch or a rim
_THINNEST_MM = 1.0
_VOXELS_AT_ONCE = 2**19
_SLACK_MM = 1e-6


@dataclass(frozen=True)
class Surfaces:
    """Both surfaces on a map, in mm from the origin; NaN outside the map.

    Args:
        inner_mm: Shape ``(N, N)``.
        outer_mm: The same.
        known: Pixels whose measured wall they were fitted to.
    """

    inner_mm: Array
    outer_mm: Array
    known: Mask


def across(chart: Chart, wall: Wall, known: Mask, use: Mask) -> Surfaces:
    """Fit a thin plate to the outer surface of the measured wall, and one to its width.

    Pixels far from the plate (the edge of another bone, the canal of a vessel) are discarded as
    outliers, and the plate is fitted again.

    Args:
        chart: The map.
        wall: The measured wall.
        known: Pixels where it is reliable.
        use: Pixels of the resulting surfaces.
    """
    values = _channels(wall)
    known = known & wall.there & ~wall.doubtful
    known &= values[1] <= _WIDEST * np.median(values[1][known])
    level = np.asarray(np.median(values[:, known], axis=1)[:, None, None], dtype=np.float64)
    weight = _weight(chart.affine)
    trusted = known
    for _ in range(_ROUNDS):
        plates = level + _plates(chart, values - level, np.where(trusted, weight, 0.0), use)
        kept = known & (np.abs(values - plates).max(axis=0) < _OUTLIER_MM)
        if (kept == trusted).all() or not kept.any():
            break
        trusted = kept
    return _surfaces(plates, trusted)


def across_both(
    chart: Chart, wall: Wall, known: Mask, predicted: Wall, deep: Mask, use: Mask
) -> Surfaces:
    """Fit thin plates to the offset of the measured wall from a prediction.

    Args:
        chart: The map.
        wall: The measured wall.
        known: Pixels where it is reliable.
        predicted: The wall that a network predicts across the defect.
        deep: Pixels where it is reliable, away from the edge.
        use: Pixels of the resulting surfaces.
    """
    measured, coarse = _channels(wall), _channels(predicted)
    level = np.asarray(np.median(measured[:, known], axis=1)[:, None, None], dtype=np.float64)
    weight = _weight(chart.affine)
    base = level + _plates(chart, coarse - level, np.where(deep, weight, 0.0), use)
    near = known & (ndimage.distance_transform_edt(~deep) * chart.pixel_mm < _BIAS_FROM_MM)
    if near.any():
        bias = np.median((measured - base)[:, near], axis=1)[:, None, None]
        base, coarse = base + bias, coarse + bias
    data = np.where(deep, coarse, measured) - base
    pull = np.where(known, weight, 0.0) + np.where(deep, _PULL * weight, 0.0)
    return _surfaces(base + _plates(chart, data, pull, use), known)


def across_like(chart: Chart, wall: Wall, known: Mask, other: Wall, use: Mask) -> Surfaces | None:
    """Fit thin plates to the offset of the measured wall from another one that crosses the defect.

    The other side of a head is thick and thin in the same regions, but slightly displaced: it
    determines the shape, and the bone around the defect determines the position.

    Args:
        chart: The map.
        wall: The measured wall.
        known: Pixels where it is reliable.
        other: A wall that also exists within the defect.
        use: Pixels of the resulting surfaces.

    Returns:
        The surfaces; None if the walls have hardly any pixels in common.
    """
    measured, values = _channels(wall), _channels(other)
    there = use & other.there & ~other.doubtful
    if np.count_nonzero(known & there) < _LEAST_COMMON:
        return None
    there &= values[1] <= _WIDEST * np.median(values[1][there])
    level = np.asarray(np.median(measured[:, known], axis=1)[:, None, None], dtype=np.float64)
    weight = _weight(chart.affine)
    base = level + _plates(chart, values - level, np.where(there, weight, 0.0), use)
    off = measured - base
    bias = np.asarray(np.median(off[:, known], axis=1)[:, None, None], dtype=np.float64)
    trusted = known & (np.abs(off - bias).max(axis=0) < _MOST_OFF_MM)
    off = bias + _plates(chart, off - bias, np.where(trusted, weight, 0.0), use)
    return _surfaces(base + off, trusted)


def _channels(wall: Wall) -> Array:
    """Return the outer surface and the width of a wall, shape ``(2, N, N)``."""
    return np.stack([wall.outer_mm, wall.outer_mm - wall.inner_mm])


def _surfaces(channels: Array, known: Mask) -> Surfaces:
    outer, width = channels
    return Surfaces(outer - np.maximum(width, _THINNEST_MM), outer, known)


def _plates(chart: Chart, data: Array, weights: Array, use: Mask) -> Array:
    """Return a plate for the outer surface and one, with more tension, for the width."""
    return np.stack(
        [
            fill(one, weights, use, chart.pixel_mm, tension=tension)
            for one, tension in zip(data, _TENSIONS, strict=True)
        ]
    )


def _weight(affine: Array) -> float:
    """Return the weight of measured surfaces in mm^-4, from the length of smoothing."""
    longest = float(np.linalg.norm(affine[:3, :3], axis=0).max())
    return float(max(_SMOOTH_MM, _SMOOTH_VOXELS * longest) ** -4)


def between(
    chart: Chart,
    surfaces: Surfaces,
    pixels: Mask,
    shape: tuple[int, ...],
    *,
    margin_mm: float = 0.0,
) -> tuple[tuple[slice, ...], Mask]:
    """Return the voxels between both surfaces over some pixels.

    Args:
        chart: The map.
        surfaces: The wall.
        pixels: Part of the map, not empty.
        shape: Shape of the volume.
        margin_mm: Margin added on either side of the wall; negative to shrink it.

    Returns:
        A box of the volume and the mask within it.
    """
    wide = _everywhere(surfaces, margin_mm)
    box = _box(chart, *wide, pixels, shape)
    around = ndimage.binary_dilation(pixels, np.ones((3, 3), dtype=bool))  # what is interpolated
    bounds = float(wide[0][around].min()), float(wide[1][around].max())
    size = [side.stop - side.start for side in box]
    mask = np.zeros(size, dtype=bool)
    thick = max(_VOXELS_AT_ONCE // (size[1] * size[2]), 1)
    for first in range(0, size[0], thick):
        slab = mask[first : first + thick]
        corner = [box[0].start + first, box[1].start, box[2].start]
        slab[...] = _as_far(chart, slab.shape, corner, bounds)
        places = np.argwhere(slab) + corner
        slab[slab] = _between(chart, *wide, pixels, places)
    return box, mask


def _as_far(
    chart: Chart, shape: tuple[int, ...], corner: list[int], bounds: tuple[float, float]
) -> Mask:
    """Return the voxels of a box that are as far from the middle as a wall somewhere is."""
    start = chart.affine[:3, :3] @ corner + chart.affine[:3, 3] - chart.origin
    squared = np.zeros(shape)
    for row, first in zip(chart.affine[:3, :3], start, strict=True):
        x, y, z = (edge * np.arange(n) for edge, n in zip(row, shape, strict=True))
        squared += ((first + x)[:, None, None] + y[:, None] + z) ** 2
    low, high = max(bounds[0] - _SLACK_MM, 0.0), bounds[1] + _SLACK_MM
    return (squared >= low**2) & (squared <= high**2)


def inside(
    chart: Chart,
    surfaces: Surfaces,
    pixels: Mask,
    places: NDArray[np.int64],
    *,
    margin_mm: float = 0.0,
) -> Mask:
    """Return which voxels, ``(M, 3)``, lie between both surfaces over some pixels."""
    return _between(chart, *_everywhere(surfaces, margin_mm), pixels, places)


def over_pixels(chart: Chart, pixels: Mask, places: NDArray[np.int64]) -> Mask:
    """Return which voxels, ``(M, 3)``, lie over some pixels."""
    points = places @ chart.affine[:3, :3].T + chart.affine[:3, 3]
    position, _ = chart.at_pixels(points)
    return np.asarray(ndimage.map_coordinates(pixels.astype(np.float32), position, order=1) >= 0.5)


def _everywhere(surfaces: Surfaces, margin_mm: float) -> tuple[Array, Array]:
    """Return both surfaces, moved apart by a margin, extended to all pixels from the nearest."""
    whole = np.isfinite(surfaces.inner_mm)
    nearest = ndimage.distance_transform_edt(~whole, return_distances=False, return_indices=True)
    at = tuple(nearest)
    return surfaces.inner_mm[at] - margin_mm, surfaces.outer_mm[at] + margin_mm


def _between(
    chart: Chart, inner: Array, outer: Array, pixels: Mask, places: NDArray[np.int64]
) -> Mask:
    points = places @ chart.affine[:3, :3].T + chart.affine[:3, 3]
    position, away = chart.at_pixels(points)
    found = ndimage.map_coordinates(pixels.astype(np.float32), position, order=1) >= 0.5
    over = position[:, found]
    low = ndimage.map_coordinates(inner, over, order=1)
    high = ndimage.map_coordinates(outer, over, order=1)
    found[found] = (away[found] >= low) & (away[found] <= high)
    return np.asarray(found)


def _box(
    chart: Chart, inner: Array, outer: Array, pixels: Mask, shape: tuple[int, ...]
) -> tuple[slice, ...]:
    """Return the bounding box of a part of the wall in voxels."""
    around = ndimage.binary_dilation(pixels, np.ones((3, 3), dtype=bool))
    x, y = chart.coordinates()
    rays = chart.frame.directions(x[around], y[around])
    ends = np.concatenate([rays * inner[around][:, None], rays * outer[around][:, None]])
    inverse = np.linalg.inv(chart.affine)
    index = (ends + chart.origin) @ inverse[:3, :3].T + inverse[:3, 3]
    low = np.clip(np.floor(index.min(axis=0)).astype(int) - 1, 0, shape)
    high = np.clip(np.ceil(index.max(axis=0)).astype(int) + 2, 0, shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
