"""Defects with the shape of a body: balls, boxes and deformed unions of balls.

Defects defined by region and area are in other modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from famseg.datasets.defects._region import RegionDefect, SkullBreakDefect
from famseg.messages import InputError

Points = NDArray[np.float64]
Inside = Callable[[Points], NDArray[np.bool_]]


@dataclass(frozen=True)
class Body:
    """A drawn shape around the origin.

    Args:
        inside: Returns whether points in mm, shape ``(..., 3)``, are in the body.
        reach_mm: No point of the body is farther from the origin than this.
    """

    inside: Inside
    reach_mm: float


class BodyDefect(Protocol):
    """A family of defects with the shape of a body, at random positions on the vault."""

    @property
    def elevation_deg(self) -> tuple[float, float]:
        """Angle of the defect's center above the horizontal, seen from the center of the vault."""

    def draw(self, rng: np.random.Generator, normal: NDArray[np.float64]) -> Body:
        """Draw a body; ``normal`` points outwards through the wall."""


Defect = BodyDefect | RegionDefect | SkullBreakDefect
"""A family of defects."""


@dataclass(frozen=True)
class SphereDefect:
    """A ball.

    Args:
        size_mm: Smallest and largest diameter in mm.
        elevation_deg: Lowest and highest angle of the center above the horizontal, in degrees.
    """

    size_mm: tuple[float, float] = (50.0, 90.0)
    elevation_deg: tuple[float, float] = (15.0, 90.0)

    def __post_init__(self) -> None:
        _check_ranges("sphere", self.size_mm, self.elevation_deg)

    def draw(self, rng: np.random.Generator, normal: NDArray[np.float64]) -> Body:
        """Draw a ball around the origin."""
        del normal
        radius = rng.uniform(*self.size_mm) / 2
        return Body(lambda points: _squared(points) <= radius**2, radius)


@dataclass(frozen=True)
class BoxDefect:
    """A box, turned at random.

    Args:
        size_mm: Shortest and longest edge in mm; the three edges are drawn one by one.
        elevation_deg: Lowest and highest angle of the center above the horizontal, in degrees.
    """

    size_mm: tuple[float, float] = (50.0, 90.0)
    elevation_deg: tuple[float, float] = (15.0, 90.0)

    def __post_init__(self) -> None:
        _check_ranges("box", self.size_mm, self.elevation_deg)

    def draw(self, rng: np.random.Generator, normal: NDArray[np.float64]) -> Body:
        """Draw a box around the origin with a uniformly random orientation."""
        del normal
        half = rng.uniform(*self.size_mm, size=3) / 2
        axes = Rotation.from_quat(rng.normal(size=4)).as_matrix()  # uniform over all orientations
        return Body(
            lambda points: (np.abs(points @ axes) <= half).all(-1), float(np.linalg.norm(half))
        )


@dataclass(frozen=True)
class SpheresDefect:
    """A union of balls side by side in the wall, its outline deformed elastically.

    One ball sits in the middle (0.6 of the radius), the others lie around it; together they fit
    into a ball of the drawn size. The elastic deformation is a sum of plane waves, so it does not
    depend on the voxels; it moves no point by more than ``deformation`` x radius.

    Args:
        size_mm: Smallest and largest diameter of the ball around the union in mm.
        elevation_deg: Lowest and highest angle of the center above the horizontal, in degrees.
        spheres: Fewest and most balls.
        deformation: Largest displacement over the radius, 0 to 0.3.
    """

    size_mm: tuple[float, float] = (50.0, 90.0)
    elevation_deg: tuple[float, float] = (15.0, 90.0)
    spheres: tuple[int, int] = (3, 6)
    deformation: float = 0.2

    def __post_init__(self) -> None:
        _check_ranges("spheres", self.size_mm, self.elevation_deg)
        if not 1 <= self.spheres[0] <= self.spheres[1] <= 64:
            raise InputError(
                f"defect spheres: count {self.spheres} must be two numbers from 1 to 64 in rising "
                "order"
            )
        if not 0 <= self.deformation <= 0.3:
            raise InputError(f"defect spheres: deformation {self.deformation} must be 0 to 0.3")

    def draw(self, rng: np.random.Generator, normal: NDArray[np.float64]) -> Body:
        """Draw a union of balls around the origin, spread perpendicular to ``normal``."""
        radius = rng.uniform(*self.size_mm) / 2
        count = int(rng.integers(self.spheres[0], self.spheres[1] + 1))
        radii = np.concatenate([[0.6], rng.uniform(0.35, 0.6, size=count - 1)]) * radius
        spread = rng.normal(size=(count, 3))
        spread -= 0.7 * (spread @ normal)[:, None] * normal  # mostly parallel to the wall
        spread *= ((radius - radii) / np.maximum(np.linalg.norm(spread, axis=1), 1e-9))[:, None]
        spread[0] = 0
        bend = _elastic(rng, self.deformation * radius, wave_length_mm=2.0 * radius)

        def inside(points: Points) -> NDArray[np.bool_]:
            moved = bend(points)
            # |m - c|^2 <= r^2 for every ball c at once: |m|^2 - 2 m.c <= r^2 - |c|^2
            excess = _squared(moved)[..., None] - 2 * moved @ spread.T
            return np.asarray((excess <= radii**2 - _squared(spread)).any(axis=-1))

        return Body(inside, radius * (1 + self.deformation))


def _squared(points: Points) -> NDArray[np.float64]:
    """Return the squared distance of points to the origin."""
    return np.asarray(np.einsum("...i,...i->...", points, points))


def _elastic(
    rng: np.random.Generator, amplitude_mm: float, wave_length_mm: float
) -> Callable[[Points], Points]:
    """Return a smooth displacement of points by at most ``amplitude_mm``."""
    count = 4
    direction = rng.normal(size=(count, 3))
    direction *= amplitude_mm / count / np.linalg.norm(direction, axis=1, keepdims=True)
    heading = rng.normal(size=(3, count))
    heading *= 2 * np.pi / wave_length_mm / np.linalg.norm(heading, axis=0)
    phase = rng.uniform(0, 2 * np.pi, size=count)
    return lambda points: points + np.sin(points @ heading + phase) @ direction


def _check_ranges(
    kind: str, size_mm: tuple[float, float], elevation_deg: tuple[float, float]
) -> None:
    faults = []
    if not 0 < size_mm[0] <= size_mm[1]:
        faults.append(
            f"defect {kind}: size_mm {list(size_mm)} must be two lengths above 0 mm in rising order"
        )
    if not -90 <= elevation_deg[0] <= elevation_deg[1] <= 90:
        faults.append(
            f"defect {kind}: elevation_deg {list(elevation_deg)} must be two angles from -90 to 90 "
            "in rising order"
        )
    if faults:
        raise InputError(*faults)
