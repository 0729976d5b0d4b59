"""Shaded images of surfaces, rendered on the CPU, for pages without the viewer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from famseg.meshes import Mesh

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

PANEL = 380
"""Width and height of each view in pixels."""


@dataclass(frozen=True)
class Side:
    """A viewing direction.

    Args:
        label: Its displayed name.
        towards: From the head to the viewer, RAS+.
        up: The direction that is up in the image, RAS+.
        edges: Letters at the left, right, bottom and top edge.
    """

    label: str
    towards: tuple[int, int, int]
    up: tuple[int, int, int]
    edges: str


# As in radiology, the patient's right is on the left of the image, except from behind.
FRONT = Side("from the front", (0, 1, 0), (0, 0, 1), "RLIS")
RIGHT = Side("from the right", (1, 0, 0), (0, 0, 1), "PAIS")
LEFT = Side("from the left", (-1, 0, 0), (0, 0, 1), "APIS")
BACK = Side("from behind", (0, -1, 0), (0, 0, 1), "LRIS")
TOP = Side("from above", (0, 0, 1), (0, -1, 0), "RLAP")

_LIGHT = np.array([-0.35, 0.45, 0.82])  # from the left, from above and from the viewer
_AMBIENT = 0.25
_STEP = 0.8  # largest distance of samples of a triangle in pixels
_MOST_STEPS = 64
_DEPTHS = 1000  # depth levels per width of a pixel
_MARGIN = 0.08
_BACKGROUND, _INK = (250, 250, 248), (60, 60, 60)
_BAR_MM = 50.0
_COLORS = 96


def three_sides(azimuth: float) -> tuple[Side, Side, Side]:
    """Return the front, the side that is closest to a direction, and the top.

    Args:
        azimuth: Direction in degrees: 0 is behind, 90 the left, 180 the front, 270 the right.

    Example:
        >>> [side.label for side in three_sides(250)]
        ['from the front', 'from the right', 'from above']
    """
    angle = azimuth % 360
    if angle < 45 or angle > 315:
        return FRONT, BACK, TOP
    return FRONT, LEFT if angle < 180 else RIGHT, TOP


def shaded_views(
    surfaces: Sequence[tuple[Mesh, NDArray[np.uint8]]], sides: Sequence[Side]
) -> bytes:
    """Draw surfaces from several sides in orthographic projection, all on the same scale.

    Each triangle is sampled more densely than the pixels, and the closest sample of each pixel is
    shown (z-buffer), lit from the viewer's upper left. Letters name the directions; a bar is 5 cm
    long. Takes two seconds for 100,000 triangles.

    Args:
        surfaces: Closed surfaces in mm, RAS+, each with one color, shape ``(3,)``, or one for each
            of its vertices, shape ``(n, 3)``.
        sides: The viewing directions, from left to right.

    Returns:
        A PNG file; the same surfaces give the same bytes.

    Raises:
        ValueError: If there is no surface.
    """
    if not surfaces:
        raise ValueError("there is no surface to draw: give at least one")
    bounds = np.stack([mesh.bounds_mm for mesh, _ in surfaces])
    low, high = bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)
    scale = (1 - 2 * _MARGIN) * PANEL / float((high - low).max())
    parts = [_triangles(mesh, colors) for mesh, colors in surfaces]
    corners, normals, colors = (np.concatenate(each) for each in zip(*parts, strict=True))
    corners = (corners - (low + high) / 2) * scale
    sheet = Image.new("RGB", (PANEL * len(sides), PANEL), _BACKGROUND)
    for number, side in enumerate(sides):
        sheet.paste(_view(corners, normals, colors, side), (number * PANEL, 0))
    draw = ImageDraw.Draw(sheet)
    for number, side in enumerate(sides):
        _write(draw, number * PANEL, side)
    _bar(draw, scale)
    file = io.BytesIO()
    small = sheet.quantize(_COLORS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(file, format="png", optimize=True)
    return file.getvalue()


def _triangles(mesh: Mesh, colors: Bytes) -> tuple[Floats, Floats, Floats]:
    """Return the corners, the normal and the color of each triangle."""
    vectors = mesh.area_vectors_mm2
    normals = vectors / np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)[:, None]
    painted = np.broadcast_to(np.asarray(colors, dtype=np.float64), mesh.vertices.shape)
    return mesh.vertices[mesh.faces], normals, painted[mesh.faces].mean(axis=1)


def _view(corners: Floats, normals: Floats, colors: Floats, side: Side) -> Image.Image:
    """Draw triangles, given in pixels relative to the center, as seen from a side."""
    towards, up = np.array(side.towards, dtype=float), np.array(side.up, dtype=float)
    axes = np.stack([np.cross(up, towards), up, towards])
    facing = np.flatnonzero(normals @ towards > 0)  # the surfaces are closed, so others are hidden
    nearest = _nearest(corners[facing] @ axes.T)
    hit = nearest >= 0
    seen = facing[nearest[hit]]
    light = np.maximum(normals[seen] @ axes.T @ (_LIGHT / np.linalg.norm(_LIGHT)), 0)
    image = np.tile(np.array(_BACKGROUND, dtype=np.float64), (PANEL * PANEL, 1))
    image[hit] = (_AMBIENT + (1 - _AMBIENT) * light)[:, None] * colors[seen]
    return Image.fromarray(image.clip(0, 255).astype(np.uint8).reshape(PANEL, PANEL, 3))


def _nearest(corners: Floats) -> NDArray[np.int64]:
    """Return the number of the closest triangle at each pixel; -1 if there is none.

    Args:
        corners: To the right, up and towards the viewer, in pixels, shape ``(m, 3, 3)``.
    """
    buffer = np.full(PANEL * PANEL, -1, dtype=np.int64)
    edges = np.linalg.norm((corners - np.roll(corners, 1, axis=1))[..., :2], axis=2).max(axis=1)
    count = np.clip(np.ceil(edges / _STEP), 1, _MOST_STEPS).astype(np.int64)
    for n in np.unique(count).tolist():
        chosen = np.flatnonzero(count == n)
        i, j = np.indices((n + 1, n + 1))
        u, v = (each[i + j <= n] / n for each in (i, j))
        share = np.stack([1 - u - v, u, v], axis=1)  # (k, 3), barycentric coordinates
        x, y, depth = (share @ part for part in corners[chosen].transpose(2, 1, 0))  # (k, m) each
        column = np.rint(x + PANEL / 2).astype(np.int64)
        row = np.rint(PANEL / 2 - y).astype(np.int64)
        # Depth and number in one integer, whose maximum is that of the closest triangle.
        key = (np.rint((depth + PANEL) * _DEPTHS).astype(np.int64) << 32) | chosen
        np.maximum.at(buffer, (row * PANEL + column).ravel(), key.ravel())
    return np.where(buffer < 0, -1, buffer & 0xFFFFFFFF)


def _write(draw: ImageDraw.ImageDraw, left: int, side: Side) -> None:
    """Write the viewing direction of a view and the directions at its edges."""
    font, middle = ImageFont.load_default(15), PANEL // 2
    if left:
        draw.line((left, 0, left, PANEL), fill=(215, 215, 210))
    draw.text((left + 10, 8), side.label, fill=_INK, font=font)
    places = ((12, middle), (PANEL - 12, middle), (middle, PANEL - 12), (middle, 14))
    for letter, (x, y) in zip(side.edges, places, strict=True):
        draw.text((left + x, y), letter, fill=_INK, font=font, anchor="mm")


def _bar(draw: ImageDraw.ImageDraw, scale: float) -> None:
    bottom = PANEL - 12
    draw.line((10, bottom, 10 + _BAR_MM * scale, bottom), fill=_INK, width=3)
    text = f"{_BAR_MM / 10:g} cm"
    draw.text((10, bottom - 6), text, fill=_INK, font=ImageFont.load_default(13), anchor="ls")
