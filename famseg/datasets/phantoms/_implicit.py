"""Signed distances to simple bodies, which are combined on a grid to form the phantom.

All lengths are in mm; a signed distance is negative inside. Bodies are evaluated only in their
bounding boxes, so that a phantom takes tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = Sequence[float]
Body = Callable[[Array, Array, Array], Array]


def smooth_min(a: Array, b: Array, blend: float) -> Array:
    """Union of two bodies with a crease rounded over ``blend`` mm (polynomial smooth minimum)."""
    if blend <= 0:
        return np.minimum(a, b)
    h = np.maximum(blend - np.abs(a - b), 0) / np.float32(blend)
    return np.asarray(np.minimum(a, b) - h * h * np.float32(blend / 4))


def smooth_max(a: Array, b: Array, blend: float) -> Array:
    """Intersection of two bodies with an edge rounded over ``blend`` mm."""
    return -smooth_min(-a, -b, blend)


def ellipsoid(center: Point, radii: Point) -> Body:
    """An ellipsoid; the distance is exact on the surface and to first order near it."""

    def distance(x: Array, y: Array, z: Array) -> Array:
        u, v, w = (
            (c - np.float32(c0)) / np.float32(r)
            for c, c0, r in zip((x, y, z), center, radii, strict=True)
        )
        value = np.sqrt(u * u + v * v + w * w)
        slope = np.sqrt(
            (u / np.float32(radii[0])) ** 2
            + (v / np.float32(radii[1])) ** 2
            + (w / np.float32(radii[2])) ** 2
        )
        # At the exact center both are 0; the limit is between the smallest and largest radius.
        ratio = np.where(slope > 0, value / np.where(slope > 0, slope, 1), np.float32(min(radii)))
        return np.asarray((value - 1) * ratio, dtype=np.float32)

    return distance


def tapered(start: Point, end: Point, radius_start: float, radius_end: float) -> Body:
    """A capsule whose radius changes from ``radius_start`` to ``radius_end`` along its axis."""
    a = np.asarray(start, dtype=np.float32)
    axis = np.asarray(end, dtype=np.float32) - a
    length2 = np.float32(axis @ axis)

    def distance(x: Array, y: Array, z: Array) -> Array:
        px, py, pz = x - a[0], y - a[1], z - a[2]
        t = np.clip((px * axis[0] + py * axis[1] + pz * axis[2]) / length2, 0, 1)
        gap = np.sqrt((px - t * axis[0]) ** 2 + (py - t * axis[1]) ** 2 + (pz - t * axis[2]) ** 2)
        return np.asarray(
            gap - (np.float32(radius_start) + t * np.float32(radius_end - radius_start))
        )

    return distance


class Field:
    """A signed distance on a grid of points, to which bodies are added in turn.

    Args:
        x: First coordinate of every grid point in mm, shape ``(X, Y, Z)``.
        y: Second coordinate.
        z: Third coordinate.
        distance: Initial signed distance, which is modified in place.
    """

    def __init__(self, x: Array, y: Array, z: Array, distance: Array) -> None:
        self.x, self.y, self.z, self.distance = x, y, z, distance
        # Ranges of coordinates along each axis, to find a body's box without testing every point.
        self._low, self._high = [], []
        for axis, c in enumerate((x, y, z)):
            others = tuple(i for i in range(3) if i != axis)
            self._low.append(c.min(axis=others))
            self._high.append(c.max(axis=others))

    def join(self, body: Body, low: Point, high: Point, blend: float = 0.0) -> None:
        """Add a body that lies between the corners ``low`` and ``high``."""
        self._apply(body, low, high, blend, lambda old, new: smooth_min(old, new, blend))

    def carve(self, body: Body, low: Point, high: Point, blend: float = 0.0) -> None:
        """Remove a body that lies between the corners ``low`` and ``high``."""
        self._apply(body, low, high, blend, lambda old, new: smooth_max(old, -new, blend))

    def _apply(
        self,
        body: Body,
        low: Point,
        high: Point,
        blend: float,
        mix: Callable[[Array, Array], Array],
    ) -> None:
        box = []
        for axis in range(3):
            inside = (self._high[axis] >= low[axis] - blend) & (
                self._low[axis] <= high[axis] + blend
            )
            hits = np.flatnonzero(inside)
            if hits.size == 0:
                return
            box.append(slice(int(hits[0]), int(hits[-1]) + 1))
        b = tuple(box)
        self.distance[b] = mix(self.distance[b], body(self.x[b], self.y[b], self.z[b]))
