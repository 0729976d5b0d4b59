"""The outline of an opening: a smooth star-shaped curve with a rough edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_BINS = 720  # number of entries in tables over the angle
_WAVES_MM = (6.0, 25.0)  # shortest and longest wave of the rough edge
_LOWEST, _HIGHEST = 3, 5  # frequencies that make a smooth outline irregular
_LOPSIDED = 0.05
_STRETCH = (0.0, 0.25)  # logarithm of the square root of length over width
_STRETCH_ACROSS = (0.2, 0.4)


@dataclass(frozen=True)
class Outline:
    """A family of outlines with one parameter, the scale in mm.

    A point at the angle ``a`` and the distance ``d`` mm from the center lies inside outlines with a
    scale of at least ``(d - rough(a)) / shape(a)``. Outlines of increasing scale are therefore
    nested, each is star-shaped, and the roughness of the edge in mm does not depend on the scale.

    Args:
        shape: Distance of the smooth outline relative to the scale, one value per angle from -pi to
            pi.
        rough_mm: Displacement of the edge.
    """

    shape: Array
    rough_mm: Array

    def scale(self, across_mm: Array, up_mm: Array) -> Array:
        """Return the smallest scale whose outline contains each point, in mm."""
        angle = (np.arctan2(up_mm, across_mm) / (2 * np.pi) + 0.5) * _BINS
        index = angle.astype(np.intp) % _BINS
        distance = np.hypot(across_mm, up_mm)
        return np.asarray((distance - self.rough_mm[index]) / self.shape[index])

    def displacement_mm(self, across_mm: Array, up_mm: Array) -> Array:
        """Return the displacement of the edge in the direction of points, in mm."""
        angle = (np.arctan2(up_mm, across_mm) / (2 * np.pi) + 0.5) * _BINS
        return np.asarray(self.rough_mm[angle.astype(np.intp) % _BINS])


def draw_outline(
    rng: np.random.Generator, area_cm2: float, roughness_mm: float, *, across: bool
) -> Outline:
    """Draw the outline of an opening.

    The edge is a sum of waves of 6 to 25 mm with random heights and phases, scaled to a root mean
    square of ``roughness_mm``. The area determines the number of waves.

    Args:
        rng: Random generator.
        area_cm2: Area to which the outline will be scaled.
        roughness_mm: Root mean square of the displacement.
        across: Whether the long axis is parallel to the first axis of the map.
    """
    angle = -np.pi + (np.arange(_BINS) + 0.5) * 2 * np.pi / _BINS
    stretch = rng.uniform(*(_STRETCH_ACROSS if across else _STRETCH))
    turn = rng.uniform(-0.2, 0.2) if across else rng.uniform(-np.pi, np.pi)
    smooth = stretch * np.cos(2 * (angle - turn))
    smooth += _waves(rng, angle, np.arange(_LOWEST, _HIGHEST + 1)) * _LOPSIDED
    around_mm = 2 * np.sqrt(np.pi * area_cm2 * 100)
    counts = np.arange(
        max(int(np.ceil(around_mm / _WAVES_MM[1])), 2), max(int(around_mm / _WAVES_MM[0]), 3) + 1
    )
    rough = _waves(rng, angle, counts)
    rough *= roughness_mm / np.sqrt(np.mean(rough**2))
    return Outline(np.exp(smooth), rough)


def _waves(rng: np.random.Generator, angle: Array, counts: NDArray[np.int64]) -> Array:
    height = rng.normal(size=len(counts))
    phase = rng.uniform(0, 2 * np.pi, size=len(counts))
    return np.asarray(height @ np.cos(counts[:, None] * angle + phase[:, None]))
