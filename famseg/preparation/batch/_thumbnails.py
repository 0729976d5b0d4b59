"""Small images of a skull: three slices, and its surface from the right and from the front.

All follow the radiological convention: the patient's right is on the left of every image that shows
both sides.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from famseg.volumes import Volume

Bytes = NDArray[np.uint8]
Bits = NDArray[np.bool_]

PANELS = (
    "axial, from below",
    "coronal, from the front",
    "sagittal, from the right",
    "surface, from the right",
    "surface, from the front",
)
"""The panels from left to right, with their viewing directions."""

_PANEL = 168  # pixels along each edge
_BAR = 12
_BACKGROUND = 20
_BONE = np.array([222, 222, 222], dtype=np.float64)
_IMPLANT = np.array([230, 159, 0], dtype=np.float64)  # orange of the palette by Okabe and Ito
# Directions at the left, right, bottom and top edge for RAS+ arrays.
_EDGES = ("RLPA", "RLIS", "PAIS", "PAIS", "RLIS")


def thumbnail(skull: Volume, implant: Volume | None = None) -> bytes:
    """Draw a skull: an axial, a coronal and a sagittal slice, and shaded views of its surface.

    The slices pass through the center of the bounding box of the bone; all panels have the same
    scale. The patient's right is on the left of the axial and coronal slices and of the surface
    from the front; letters at the edges of each panel name the directions.

    Args:
        skull: A mask, RAS+.
        implant: A mask on the same grid, shown in color; it is part of the complete skull.

    Returns:
        A PNG file of 840 x 180 pixels without metadata; the same skull gives the same bytes.

    Raises:
        ValueError: If the grids differ.
    """
    bone = skull.array > 0
    added = np.zeros_like(bone) if implant is None else implant.array > 0
    if added.shape != bone.shape:
        raise ValueError(f"the implant has the grid {added.shape}, the skull {bone.shape}.")
    whole = bone | added
    x, y, z = (slice(low, high) for low, high in _box(whole))
    bone, added = bone[x, y, z], added[x, y, z]
    bone, added = bone[::-1], added[::-1]  # the viewer has the right side on the left
    middle = [n // 2 for n in bone.shape]
    dx, dy, dz = skull.spacing_mm
    slices = [
        (_plane(np.take(bone, middle[a], a), np.take(added, middle[a], a)), steps)
        for a, steps in ((2, (dx, dy)), (1, (dx, dz)), (0, (dy, dz)))
    ]
    views = [
        (_surface(bone, added, 0, (dx, dy, dz)), (dy, dz)),
        (_surface(bone[:, ::-1], added[:, ::-1], 1, (dx, dy, dz)), (dx, dz)),
    ]
    edges = [n * d for n, d in zip(bone.shape, (dx, dy, dz), strict=True)]
    per_pixel = max(edges) / (_PANEL - 24)  # with room for the letters
    sheet = Image.new("RGB", (_PANEL * len(PANELS), _PANEL + _BAR), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(sheet)
    for i, (picture, steps) in enumerate(slices + views):
        _paste(sheet, picture, steps, per_pixel, i)
        _write(draw, i)
    file = io.BytesIO()
    sheet.quantize(palette=_palette(), dither=Image.Dither.NONE).save(
        file, format="png", optimize=True
    )
    return file.getvalue()


@cache
def _palette() -> Image.Image:
    """Return 48 grays and 16 oranges: images look the same and take a third of the space.

    They are fixed, because adaptive palettes miss the colors of a small implant.
    """
    grays = np.unique(np.append(np.linspace(0, 255, 46).round(), [_BACKGROUND, _BONE[0]]))
    oranges = np.linspace(0.08, 1.0, 16)[:, None] * _IMPLANT
    colors = np.concatenate([np.repeat(grays[:, None], 3, axis=1), oranges.round()])
    image = Image.new("P", (1, 1))
    image.putpalette(colors.astype(np.uint8).ravel().tolist())
    return image


def _box(mask: Bits) -> list[tuple[int, int]]:
    """Return the first and one past the last index with bone along each axis."""
    found = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        places = np.flatnonzero(mask.any(axis=others))
        found.append((int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1))
    return found


def _plane(bone: Bits, added: Bits) -> Bytes:
    """Return a slice as RGB, with its first axis to the right and the second downwards."""
    rgb = np.full((*bone.shape, 3), _BACKGROUND, dtype=np.uint8)
    rgb[bone] = _BONE.astype(np.uint8)
    rgb[added] = _IMPLANT.astype(np.uint8)
    return rgb.swapaxes(0, 1)


def _surface(
    bone: Bits, added: Bits, axis: Literal[0, 1], spacing_mm: tuple[float, float, float]
) -> Bytes:
    """Return the surface seen along an axis as RGB, lit from the viewer and from above.

    The brightness depends on the slope of the depth, whose steps are smoothed first.
    """
    whole = bone | added
    hit = whole.any(axis)
    first = whole.argmax(axis)
    steps = [spacing_mm[a] for a in range(3) if a != axis]
    depth = np.where(hit, first * spacing_mm[axis], np.nan)
    slope_u, slope_z = _slopes(_smoothed(depth), steps)
    light = np.array([0.25, 0.45, 1.0])
    shade = light[2] + light[1] * slope_z - light[0] * slope_u
    shade = shade / np.sqrt(1 + slope_u**2 + slope_z**2) / np.linalg.norm(light)
    far = np.nan_to_num(depth) / max(float(np.nanmax(depth, initial=1.0)), 1.0)
    brightness = np.clip(shade, 0.08, 1.0) * (1.0 - 0.45 * far)
    is_added = np.take_along_axis(added, np.expand_dims(first, axis), axis).squeeze(axis)
    rgb = np.where(np.expand_dims(is_added, -1), _IMPLANT, _BONE) * brightness[..., None]
    rgb = np.where(np.expand_dims(hit, -1), rgb, _BACKGROUND)
    return rgb.astype(np.uint8).swapaxes(0, 1)


def _smoothed(depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean depth over 3 x 3 pixels with bone that differ by less than 6 mm."""
    padded = np.pad(depth, 1, constant_values=np.nan)
    total, count = np.zeros_like(depth), np.zeros_like(depth)
    rows, columns = depth.shape
    for i in range(3):
        for j in range(3):
            near = padded[i : i + rows, j : j + columns]
            used = np.abs(near - depth) < 6.0  # false if either pixel has no bone
            total += np.where(used, near, 0.0)
            count += used
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.where(count > 0, count, np.nan), dtype=np.float64)


def _slopes(
    depth: NDArray[np.float64], steps: list[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the slope of the depth along both axes; 0 at the edge of the bone."""
    filled = np.pad(depth, 1, mode="edge")
    u = (filled[2:, 1:-1] - filled[:-2, 1:-1]) / (2 * steps[0])
    z = (filled[1:-1, 2:] - filled[1:-1, :-2]) / (2 * steps[1])
    return np.clip(np.nan_to_num(u), -4, 4), np.clip(np.nan_to_num(z), -4, 4)


def _paste(
    sheet: Image.Image, picture: Bytes, steps: tuple[float, float], per_pixel: float, index: int
) -> None:
    rows, columns = picture.shape[:2]
    size = (
        max(round(columns * steps[0] / per_pixel), 1),
        max(round(rows * steps[1] / per_pixel), 1),
    )
    up: Any = picture[::-1]  # the rows of an image run downwards
    scaled = Image.fromarray(up).resize(size, Image.Resampling.BOX if rows > size[1] else 3)
    left = index * _PANEL + (_PANEL - size[0]) // 2
    sheet.paste(scaled, (left, _BAR + (_PANEL - size[1]) // 2))


def _write(draw: ImageDraw.ImageDraw, index: int) -> None:
    """Write the title of a panel and the directions at its edges."""
    left, middle = index * _PANEL, _PANEL // 2
    gray = (170, 170, 170)
    if index:  # a line shows which panel a letter belongs to
        draw.line((left, 0, left, _PANEL + _BAR), fill=(90, 90, 90))
    draw.text((left + middle, 1), PANELS[index], fill=gray, anchor="ma")
    places = ((7, middle + _BAR), (_PANEL - 7, middle + _BAR), (middle, _PANEL + _BAR - 6))
    for letter, (x, y) in zip(_EDGES[index], places, strict=False):
        draw.text((left + x, y), letter, fill=gray, anchor="mm")
    draw.text((left + middle, _BAR + 7), _EDGES[index][3], fill=gray, anchor="mm")
