"""Shares of bone on a grid whose axes are parallel to those of the field, computed by axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_WEIGHED = 2**16  # voxels of the field at a time, which fit into a core's cache as float64


class Axis(NamedTuple):
    """Sampling points of a grid along one axis of a field.

    Args:
        first: Index of the first voxel of the field that each voxel of the grid samples, ``(n,)``.
        last: Index of the last voxel that it samples, ``(n,)``.
        weights: Weights of linear interpolation of ``width`` voxels of the field, starting at the
            first, for each point, shape ``(n, places, width)``. All are 0 for a point outside the
            field.
    """

    first: NDArray[np.intp]
    last: NDArray[np.intp]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, places: NDArray[np.float64], size: int) -> Axis:
        """Compute the table of weights for an axis.

        Args:
            places: Sampling points in voxels of the field, ascending within each voxel of the grid,
                shape ``(n, places)``.
            size: Number of voxels of the field along this axis.
        """
        lower = np.floor(places).astype(np.intp)
        upper_weight = places - lower
        last = np.where(upper_weight[:, -1] > 0, lower[:, -1] + 1, lower[:, -1])
        width = int((last - lower[:, 0]).max()) + 1
        weights = np.zeros((*places.shape, width))
        voxel, place = np.arange(len(places))[:, None], np.arange(places.shape[1])
        at = lower - lower[:, :1]
        weights[voxel, place, at] = 1 - upper_weight
        above = np.minimum(at + 1, width - 1)  # outside the field the weight is 0
        weights[voxel, place, above] += upper_weight
        weights[(places < 0) | (places > size - 1)] = 0
        return cls(lower[:, 0], last, weights)

    @property
    def width(self) -> int:
        """Number of voxels of the field that a voxel of the grid samples."""
        return int(self.weights.shape[2])


def shares_along_axes(values: NDArray[np.int8], axes: Sequence[Axis]) -> NDArray[np.float32]:
    """Return the share of the sampling points in each voxel of a grid where a field is positive.

    Only voxels that sample values of both signs are interpolated. The weights are applied axis by
    axis, which takes far fewer operations than eight neighbors for each point.

    Args:
        values: The field, which is not positive anywhere outside.
        axes: The sampling points along each of its axes.

    Returns:
        The shares, shape of the grid. Products are rounded and added one by one in a fixed order,
        so every processor gives the same bits.
    """
    # Transposed: scans are stored slice by slice.
    values, axes = np.ascontiguousarray(values.T), list(axes)[::-1]
    bone = values > 0
    some, whole = bone, bone
    for k, axis in enumerate(axes):
        some = _joined(some, axis, k, np.logical_or)
        whole = _joined(whole, axis, k, np.logical_and)
    shares = whole.astype(np.float32)
    edge = np.flatnonzero(some & ~whole)
    padded, shift = _padded(values, axes)
    windows = np.lib.stride_tricks.sliding_window_view(padded, [axis.width for axis in axes])
    size = max(1, _MOST_WEIGHED // int(np.prod([axis.width for axis in axes])))
    for start in range(0, len(edge), size):
        part = edge[start : start + size]
        voxels = np.unravel_index(part, shares.shape)
        at = tuple(a.first[v] + s for a, v, s in zip(axes, voxels, shift, strict=True))
        z, y, x = (_voxels_last(axis.weights[v]) for axis, v in zip(axes, voxels, strict=True))
        level = _voxels_last(windows[at])
        for weights in (x, y, z):
            level = _interpolated(level, weights)
        shares.ravel()[part] = (level > 0).mean(axis=(0, 1, 2), dtype=np.float32)
    return shares.T


def _voxels_last(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return values with their first axis as the last one, along which they are contiguous."""
    return np.moveaxis(values, 0, -1).astype(np.float64, order="C")


def _interpolated(level: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate along the last axis of a field but one, and make it the first axis.

    Args:
        level: Values, shape ``(a, b, width, n)``.
        weights: From `Axis`, shape ``(places, width, n)``.

    Returns:
        Values at the places, shape ``(places, a, b, n)``.
    """
    found = level[:, :, 0] * weights[:, None, None, 0]
    for k in range(1, level.shape[2]):
        found += level[:, :, k] * weights[:, None, None, k]
    return found


def _joined(bone: NDArray[np.bool_], axis: Axis, number: int, join: np.ufunc) -> NDArray[np.bool_]:
    """Return the reduction over the voxels that the grid samples along one axis."""
    top = bone.shape[number] - 1
    index = np.clip(axis.first, 0, top)  # the border of a field contains no bone
    joined = bone.take(index, axis=number)
    for k in range(1, axis.width):
        index = np.clip(np.minimum(axis.first + k, axis.last), 0, top)
        join(joined, bone.take(index, axis=number), out=joined)
    return joined


def _padded(
    values: NDArray[np.int8], axes: Sequence[Axis]
) -> tuple[NDArray[np.int8], tuple[int, ...]]:
    """Return a field padded to all sampled voxels, and the shift of its origin."""
    before = [max(0, -int(axis.first.min())) for axis in axes]
    after = [
        max(0, int(axis.first.max()) + axis.width - size)
        for axis, size in zip(axes, values.shape, strict=True)
    ]
    if not any((*before, *after)):
        return values, tuple(before)
    wide = np.pad(values, list(zip(before, after, strict=True)), constant_values=-127)
    return wide, tuple(before)
