"""Slices through a scan with the outline of its bone, by which a threshold can be judged.

Like the thumbnails, they follow the radiological convention: the patient's right is on the left of
axial and coronal slices. The front is on the right of sagittal slices.
"""

from __future__ import annotations

import io
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from famseg.preparation._types import Slices, View
from famseg.preparation.steps._bone import Mask, Scale
from famseg.preparation.steps._clean import bounding_box
from famseg.preparation.steps._grid import BoneField, Matrix
from famseg.volumes import Volume

VIEWS: tuple[View, ...] = get_args(View)

COUNT = 24
"""Number of slices in a view, spaced evenly over the bounding box of the bone."""

TILE = 208
"""Pixels along each edge of a slice."""

MOST_BYTES = 60_000
"""Largest JPEG of a view; the quality is reduced until it fits."""

_MARGIN_MM = 8.0  # around the bone, for the skin and objects on it
_QUALITIES = (60, 45, 30, 20, 10, 5)
_OUTLINE = (255, 196, 0)
# Array axes of each view: between layers, downwards, to the right. Coordinates decrease along all
# three, except to the right in sagittal slices, which show the front on the right.
_AXES: dict[View, tuple[int, int, int]] = {
    "axial": (2, 1, 0),
    "coronal": (1, 2, 0),
    "sagittal": (0, 2, 1),
}


def slices(
    values: NDArray[Any],
    affine: Matrix,
    scale: Scale | None,
    field: BoneField,
    to_source: Matrix,
    skull: Volume,
) -> dict[View, Slices]:
    """Return slices of a scan along the axes of the prepared skull, with the outline of the bone.

    The outline is that of the cleaned bone in the voxels of the scan, above the cut of the result.
    The voxels of the result itself are too coarse to judge a threshold.

    Args:
        values: The scan, shape ``(X, Y, Z)``.
        affine: Maps its indices to mm of its world.
        scale: Reference values. The gray levels range from as far below soft tissue as the
            threshold is above it up to solid bone. None for masks, which are shown from their
            lowest to their highest value.
        field: The bone field in the voxels of the scan.
        to_source: Maps mm of the skull's world to mm of the scan's.
        skull: The result, which defines the range of the slices.

    Returns:
        The slices by view, all with the same size of pixels in mm.
    """
    x, y, z = bounding_box(skull.array.astype(bool))
    low = skull.affine[:3, 3] + (np.array([s.start for s in (x, y, z)]) - 0.5) * skull.spacing_mm
    high = skull.affine[:3, 3] + (np.array([s.stop for s in (x, y, z)]) - 0.5) * skull.spacing_mm
    pixel_mm = float((high - low).max() + 2 * _MARGIN_MM) / TILE
    black, white = _window(values, scale)
    shown = {}
    for view in VIEWS:
        place = to_source @ _places(view, low, high, pixel_mm)
        gray = _sampled(values, np.linalg.inv(affine) @ place, black)
        gray = np.clip((gray - black) * (255 / (white - black)), 0, 255).astype(np.uint8)
        bone = _sampled(field.values, np.linalg.inv(field.affine) @ place, -1) > 0
        _cut_below(bone, view, low, high, pixel_mm)
        shown[view] = Slices(gray, _outline(bone))
    return shown


def images(shown: Slices) -> tuple[bytes, bytes]:
    """Return the slices of a view, one below the other.

    Returns:
        The scan as a JPEG of at most `MOST_BYTES` (or the lowest quality), and the outline as a PNG
        that is transparent elsewhere. Both are without metadata, so the same slices give the same
        bytes.
    """
    scan = Image.fromarray(shown.gray.reshape(-1, TILE))
    for quality in _QUALITIES:
        jpeg = io.BytesIO()
        scan.save(jpeg, format="jpeg", quality=quality)
        if jpeg.tell() <= MOST_BYTES:
            break
    outline = Image.fromarray(shown.outline.reshape(-1, TILE).astype(np.uint8))
    outline.putpalette([0, 0, 0, *_OUTLINE])
    png = io.BytesIO()
    outline.save(png, format="png", transparency=0, bits=1)
    return jpeg.getvalue(), png.getvalue()


def _window(values: NDArray[Any], scale: Scale | None) -> tuple[float, float]:
    if scale is not None:
        return 2 * scale.soft - scale.threshold, scale.solid
    low, high = float(values.min()), float(values.max())
    return low - (high - low) / 4, high + (high - low) / 2  # the outline is drawn on gray


def _places(view: View, low: Matrix, high: Matrix, pixel_mm: float) -> Matrix:
    """Return the map from layer, row and column to mm of the skull's world, shape ``(4, 4)``."""
    middle = (low + high) / 2
    layer, row, column = _AXES[view]
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    step = (high[layer] - low[layer]) / COUNT
    matrix[layer, 0], matrix[layer, 3] = -step, high[layer] - step / 2
    to_right = 1.0 if view == "sagittal" else -1.0
    for axis, at, sign in ((row, 1, -1.0), (column, 2, to_right)):
        matrix[axis, at] = sign * pixel_mm
        matrix[axis, 3] = middle[axis] - sign * pixel_mm * (TILE - 1) / 2
    return matrix


def _sampled(values: NDArray[Any], to_index: Matrix, outside: float) -> NDArray[np.float32]:
    """Return values by layer, row and column, interpolated if pixels are finer than voxels."""
    voxels = np.linalg.norm(to_index[:3, 1:3], axis=0)  # voxels of the scan per pixel
    order = 0 if voxels.min() >= 1 else 1
    if np.count_nonzero(to_index[:3, :3]) == 3:  # each follows one axis of the scan
        return _along_axes(values, to_index, outside, order)
    return np.asarray(
        ndimage.affine_transform(
            values,
            to_index[:3, :3],
            offset=to_index[:3, 3],
            output_shape=(COUNT, TILE, TILE),
            output=np.float32,
            order=order,
            mode="constant",
            cval=outside,
            prefilter=False,
        )
    )


def _along_axes(
    values: NDArray[Any], to_index: Matrix, outside: float, order: int
) -> NDArray[np.float32]:
    """Return the same computed axis by axis, if the axes of the slices are those of the scan."""
    follows = np.argmax(np.abs(to_index[:3, :3]), axis=1)  # layer, row or column
    places = [
        to_index[axis, along] * np.arange((COUNT, TILE, TILE)[along]) + to_index[axis, 3]
        for axis, along in enumerate(follows)
    ]
    beyond = []
    # The axis that is reduced most comes first, which leaves the least data for the others.
    for axis in np.argsort([len(p) / n for p, n in zip(places, values.shape, strict=True)]):
        at, last = places[axis], values.shape[axis] - 1
        beyond.append((axis, (at < 0) | (at > last)))
        at = np.clip(at, 0, last)
        if order == 0:
            values = _layers(values, np.floor(at + 0.5).astype(np.intp), axis)
            continue
        lower = np.floor(at).astype(np.intp)
        weight = (at - lower).astype(np.float32)
        weight = weight.reshape([-1 if a == axis else 1 for a in range(3)])
        below = _layers(values, lower, axis).astype(np.float32)
        above = _layers(values, np.minimum(lower + 1, last), axis)
        values = below + weight * (above - below)
    sampled = values.astype(np.float32)
    for axis, where in beyond:
        sampled[tuple(where if a == axis else slice(None) for a in range(3))] = outside
    return sampled.transpose(np.argsort(follows))


def _layers(values: NDArray[Any], index: NDArray[np.intp], axis: int) -> NDArray[Any]:
    """Return layers of an array; `take` would copy all of an array stored slice by slice."""
    if values.flags.c_contiguous:
        return values.take(index, axis=axis)
    before = (slice(None),) * axis
    return np.stack([values[(*before, k)] for k in index.tolist()], axis=axis)


def _cut_below(bone: Mask, view: View, low: Matrix, high: Matrix, pixel_mm: float) -> None:
    """Remove the outline below the result, which is the neck."""
    if view != "axial":  # axial slices all lie within the result
        middle = (low[2] + high[2]) / 2
        heights = middle - pixel_mm * (np.arange(TILE) - (TILE - 1) / 2)
        bone[:, heights < low[2]] = False


def _outline(bone: Mask) -> Mask:
    inner = bone.copy()
    inner[:, 1:] &= bone[:, :-1]
    inner[:, :-1] &= bone[:, 1:]
    inner[:, :, 1:] &= bone[:, :, :-1]
    inner[:, :, :-1] &= bone[:, :, 1:]
    return bone & ~inner
