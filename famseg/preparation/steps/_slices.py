"""Slices through a scan with the outline of its bone: what a threshold is judged by.

All are radiological, as the thumbnails are: the patient's right is on the left of axial and coronal
slices, the front is on the right of sagittal ones.
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
"""Slices of a view: the middles of as many equal layers of the box around the bone."""

TILE = 208
"""Pixels along each edge of a slice."""

MOST_BYTES = 60_000
"""Of the scan in one view; the JPEG is made coarser until it contains."""

_MARGIN_MM = 8.0  # around the bone: its skin, and what lies on that
_QUALITIES = (60, 45, 30, 20, 10, 5)
_OUTLINE = (255, 196, 0)
# Array axis of each view: from layer to layer, downwards, to the right; all three run downwards in
# mm, but for sagittal slices, which are seen from the right: their front is on the right.
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
    """Cut a scan along the axes of the prepared skull, and outline the bone that was found.

    The outline is that of the cleaned bone in the voxels of the scan, above the cut of the result:
    the result itself has the voxels of its grid, which are too coarse to judge a threshold by.

    Args:
        values: The scan, shape ``(X, Y, Z)``.
        affine: Maps its indices to mm of its world.
        scale: What its values mean: shown from as far below soft tissue as the threshold is above
            it, up to solid bone. None for masks, which are shown from their least to their
            greatest value.
        field: The bone in the voxels of the scan.
        to_source: Maps mm of the skull's world to mm of the scan's.
        skull: The result; says where to cut.

    Returns:
        The slices by view; all have one scale in mm a pixel.
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
        The scan as JPEG of at most `MOST_BYTES` (the coarsest quality is taken if none holds them),
        and the outline as PNG that is transparent elsewhere; without metadata, the same bytes for
        the same slices.
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
    return low - (high - low) / 4, high + (high - low) / 2  # the outline is seen on gray


def _places(view: View, low: Matrix, high: Matrix, pixel_mm: float) -> Matrix:
    """Return what maps layer, row and column to mm of the skull's world, shape ``(4, 4)``."""
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
    """Return values by layer, row and column, interpolated where pixels are finer than voxels."""
    voxels = np.linalg.norm(to_index[:3, 1:3], axis=0)  # of the scan a pixel
    order = 0 if voxels.min() >= 1 else 1
    if np.count_nonzero(to_index[:3, :3]) == 3:  # not turned: an axis of the scan for each of these
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
    """Return the same axis by axis, where the axes of the slices are those of the scan."""
    follows = np.argmax(np.abs(to_index[:3, :3]), axis=1)  # layer, row or column
    places = [
        to_index[axis, along] * np.arange((COUNT, TILE, TILE)[along]) + to_index[axis, 3]
        for axis, along in enumerate(follows)
    ]
    beyond = []
    # What has the fewest places for its voxels comes first, and leaves the least to go through.
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
    """Return layers of an array; `take` would copy all of one that lies slice by slice."""
    if values.flags.c_contiguous:
        return values.take(index, axis=axis)
    before = (slice(None),) * axis
    return np.stack([values[(*before, k)] for k in index.tolist()], axis=axis)


def _cut_below(bone: Mask, view: View, low: Matrix, high: Matrix, pixel_mm: float) -> None:
    """Remove what lies below the result: it is the neck."""
    if view != "axial":  # whose layers all lie within
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
