"""The vertex: the top of a closed vault, not the highest object as dense as bone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.preparation.steps._bone import Mask, working_steps
from famseg.preparation.steps._plates import Spacing, any_of_blocks

Indices = NDArray[np.intp]

_CAVITY_CM2 = 10.0  # area enclosed by bone in a layer; a vertebra or a jaw encloses less
_CLOSED_SHARE = 0.5  # share of the columns above that cavity that end in bone
_GAP_MM = 4.0
_THICKEST_MM = 20.0  # of a roof; thicker bone includes an object on top
_ROOF_CM2, _ROOF_MM = 5.0, 6.0  # a roof has this much of its area in its uppermost millimeters
_PEAK_CM2 = 1.0  # a smaller area at the top of these is a pin or noise


def vault_top(mask: Mask, spacing_mm: Spacing) -> int | None:
    """Return the layer of the vertex of a skull.

    Searching from the top, the first layer in which bone encloses 10 cm2 lies below the roof of the
    cranial cavity. In each column above the cavity, the first bone up to a gap of 4 mm belongs to
    the roof, unless it is thicker than 20 mm. The vertex is the top of the highest 6 mm that
    contain 5 cm2 of that roof.

    Args:
        mask: A piece of bone, axes to the right, front and top, not empty.
        spacing_mm: Edge of a voxel along each axis.

    Returns:
        Index of the layer; None if no layer encloses a cavity, or the cavity is open at the top.
    """
    steps = working_steps(spacing_mm)
    small = any_of_blocks(mask, (steps[0], steps[1], 1))
    pixel_cm2 = steps[0] * spacing_mm[0] * steps[1] * spacing_mm[1] / 100
    for k in range(small.shape[2] - 1, -1, -1):
        cavity = _cavity(small[:, :, k])
        if np.count_nonzero(cavity) * pixel_cm2 < _CAVITY_CM2:
            continue
        columns = small[:, :, k + 1 :][cavity]
        roofed = columns.any(axis=1)
        if roofed.mean() < _CLOSED_SHARE:
            return None
        top = _highest(_roof(columns[roofed], spacing_mm[2]), pixel_cm2, spacing_mm[2])
        if top is not None:
            return k + 1 + top
    return None


def _highest(tops: Indices, pixel_cm2: float, layer_mm: float) -> int | None:
    """Return the top of the highest layers that contain enough of the ``tops`` of a roof."""
    falling = np.sort(tops)[::-1]
    most, least = (max(1, round(cm2 / pixel_cm2)) for cm2 in (_ROOF_CM2, _PEAK_CM2))
    within = falling[: 1 - most or None] - falling[most - 1 :] <= _ROOF_MM / layer_mm
    if not within.any():
        return None
    return int(falling[int(np.argmax(within)) + least - 1])


def _cavity(layer: Mask) -> Mask:
    """Return the largest region of a layer that is enclosed by bone."""
    labels, count = ndimage.label(np.pad(~layer, 1, constant_values=True))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[[0, labels[0, 0]]] = 0  # bone, and the outside
    enclosed: Mask = labels[1:-1, 1:-1] == np.argmax(sizes)
    return enclosed if sizes.max() > 0 else np.zeros_like(layer)


def _roof(columns: Mask, layer_mm: float) -> Indices:
    """Return where the first bone ends in each of the columns ``(N, Z)`` that is thin enough."""
    gap, thickest = max(1, round(_GAP_MM / layer_mm)), _THICKEST_MM / layer_mm
    tops = []
    for column in columns:
        at = np.flatnonzero(column)
        breaks = np.flatnonzero(np.diff(at) > gap)
        end = at[breaks[0]] if breaks.size else at[-1]
        if end - at[0] < thickest:
            tops.append(end)
    return np.array(tops, dtype=np.intp)
