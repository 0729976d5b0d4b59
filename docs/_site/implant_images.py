"""Images of implants: meshes shaded from three sides, and slices through a result; no VTK."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from famseg.meshes import Mesh

Floats = NDArray[np.float64]
Color = tuple[float, float, float]

BONE: Color = (0.93, 0.87, 0.74)
IMPLANT: Color = (0.25, 0.55, 0.85)
# From where one looks, and what is up in the image; RAS+.
VIEWS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "front": ((0, 1, 0), (0, 0, 1)),
    "left": ((-1, 0, 0), (0, 0, 1)),
    "right": ((1, 0, 0), (0, 0, 1)),
    "back": ((0, -1, 0), (0, 0, 1)),
    "top": ((0, 0, 1), (0, 1, 0)),
    "oblique": ((0.6, 0.7, 0.4), (0, 0, 1)),
}
_LIGHT = np.array([0.3, 0.4, 0.87])  # to the right, up and towards the viewer
_PIXEL_SHARE = 0.5  # of a pixel between samples of a triangle


def render(meshes: Sequence[tuple[Mesh, Color]], view: str, size: int = 480) -> Image.Image:
    """Return meshes seen from far away, shaded, nearest surfaces in front.

    Args:
        meshes: What is shown, with its color.
        view: One of `VIEWS`.
        size: Edge of the image in pixels.
    """
    towards, up = (np.asarray(v, dtype=float) / np.linalg.norm(v) for v in VIEWS[view])
    right = np.cross(up, towards)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(towards, right), towards])
    low, high = _extent([mesh.vertices @ axes.T for mesh, _ in meshes])
    scale = 0.94 * size / float((high - low)[:2].max())
    middle = (low + high) / 2
    image = np.ones((size * size, 3))
    depth = np.full(size * size, -np.inf)
    for mesh, color in meshes:
        points, normals = _samples(mesh, _PIXEL_SHARE / scale)
        seen = (points @ axes.T - middle) * scale
        column = np.rint(seen[:, 0] + size / 2).astype(int)
        row = np.rint(size / 2 - seen[:, 1]).astype(int)
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        pixel = (row * size + column)[inside]
        away = seen[inside, 2]
        order = np.argsort(away, kind="stable")  # the nearest is written last
        pixel, away = pixel[order], away[order]
        light = 0.25 + 0.75 * np.abs(normals[inside][order] @ axes.T @ _LIGHT)
        front = away >= depth[pixel]
        depth[pixel[front]] = away[front]
        image[pixel[front]] = light[front, None] * np.array(color)
    return Image.fromarray((255 * np.clip(image, 0, 1)).astype(np.uint8).reshape(size, size, 3))


def slices(
    bone: NDArray[np.bool_],
    implant: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    size: int = 480,
) -> Image.Image:
    """Return the sagittal, coronal and axial slice through the middle of an implant.

    Args:
        bone: Axes to the right, front and top.
        implant: The same grid.
        spacing_mm: Edge of a voxel along each axis.
        size: Height of the image in pixels.
    """
    tiles = []
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        at = int(np.median(np.nonzero(implant)[axis]))
        layer = np.ones((*np.take(bone, 0, axis).shape, 3)) * 0.06
        layer[np.take(bone, at, axis)] = BONE
        layer[np.take(implant, at, axis)] = IMPLANT
        edges = [spacing_mm[k] * bone.shape[k] for k in others]
        scale = size / max(bone.shape[k] * spacing_mm[k] for k in range(3))
        wide, high = (max(round(edge * scale), 1) for edge in edges)
        upright = np.ascontiguousarray(layer.transpose(1, 0, 2)[::-1])
        image = Image.fromarray((255 * upright).astype(np.uint8))
        tile = Image.new("RGB", (size, size))
        resized = image.resize((wide, high), Image.Resampling.NEAREST)
        tile.paste(resized, ((size - wide) // 2, (size - high) // 2))
        tiles.append(tile)
    return beside(tiles)


def beside(tiles: Sequence[Image.Image]) -> Image.Image:
    """Return images of one height as one."""
    whole = Image.new("RGB", (sum(t.width for t in tiles), tiles[0].height), "white")
    left = 0
    for tile in tiles:
        whole.paste(tile, (left, 0))
        left += tile.width
    return whole


def save(image: Image.Image, path: Path) -> None:
    """Write an image with few colors, as small as it gets."""
    content = io.BytesIO()
    image.quantize(64, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())


def _extent(clouds: Sequence[Floats]) -> tuple[Floats, Floats]:
    return (
        np.min([cloud.min(axis=0) for cloud in clouds], axis=0),
        np.max([cloud.max(axis=0) for cloud in clouds], axis=0),
    )


def _samples(mesh: Mesh, step_mm: float) -> tuple[Floats, Floats]:
    """Return points that cover each triangle, and the normals of their triangles."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    normals = normals / np.maximum(length, 1e-12)[:, None]
    longest = np.sqrt(np.maximum(((b - a) ** 2).sum(1), ((c - a) ** 2).sum(1)))
    count = np.clip(np.ceil(longest / step_mm), 1, 24).astype(int)
    points, shades = [], []
    for n in np.unique(count):
        chosen = count == n
        i, j = np.indices((n + 1, n + 1))
        kept = i + j <= n
        u, v = i[kept] / n, j[kept] / n
        p, q, r = a[chosen, None], b[chosen, None], c[chosen, None]
        grid = p + u[None, :, None] * (q - p) + v[None, :, None] * (r - p)
        points.append(grid.reshape(-1, 3))
        shades.append(np.repeat(normals[chosen], len(u), axis=0))
    return np.concatenate(points), np.concatenate(shades)
