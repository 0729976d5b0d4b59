"""Surgical defects, defined by a region of the vault and an area in cm2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from famseg.messages import InputError

if TYPE_CHECKING:
    import numpy as np

Where = Literal["bilateral", "frontoorbital", "parietotemporal", "random_1", "random_2"]
Spread = Literal["uniform", "lognormal"]
Pair = tuple[float, float]

WHERES: tuple[Where, ...] = get_args(Where)
LARGEST_AREA_CM2 = 200.0
LARGEST_ROUGHNESS_MM = 5.0

AREAS_CM2: dict[Where, Pair] = {
    "bilateral": (40.0, 150.0),
    "frontoorbital": (20.0, 80.0),
    "parietotemporal": (30.0, 150.0),
    "random_1": (10.0, 100.0),
    "random_2": (10.0, 100.0),
}
"""Default smallest and largest area of each class; see docs/defects.md for sources."""


@dataclass(frozen=True)
class Place:
    """Ranges for the center of an opening, and its lower limit.

    Args:
        azimuth_deg: Range of the angle around the vertical: 0 is the front, 90 the right.
        elevation_deg: Range of the angle above the horizontal.
        floor_deg: No part of the opening lies below this elevation.
        across: Whether the long axis of the opening runs from left to right.
    """

    azimuth_deg: Pair
    elevation_deg: Pair
    floor_deg: float
    across: bool = False

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        """Return azimuth and elevation in radians, uniform by area on the sphere."""
        azimuth = math.radians(rng.uniform(*self.azimuth_deg))
        low, high = (math.sin(math.radians(angle)) for angle in self.elevation_deg)
        return azimuth, math.asin(rng.uniform(low, high))


_ACROSS = Place((-20.0, 20.0), (35.0, 75.0), -10.0, across=True)
_RIGHT = Place((65.0, 115.0), (5.0, 35.0), -15.0)
_FRONT = Place((-40.0, 40.0), (-20.0, 0.0), -35.0)
_SIDE = Place((70.0, 125.0), (0.0, 40.0), -20.0)
_ANYWHERE = Place((-180.0, 180.0), (10.0, 90.0), -15.0)


@dataclass(frozen=True)
class RegionDefect:
    """A defect in a named region of the vault.

    The classes are those of SkullBreak. ``frontoorbital``: low in front, with the roof of an orbit.
    ``parietotemporal``: on one side, left or right at random. ``bilateral``: on both sides, in half
    of the draws one opening across the midline, in the others one opening on each side.
    ``random_1``, ``random_2``: anywhere on the vault; both mean the same.

    Args:
        where: The class.
        area_cm2: Smallest and largest area on the outer surface in cm2, of both openings together
            if there are two; None for the class's own range, see `AREAS_CM2`.
        spread: How areas are drawn: ``uniform`` over the range; ``lognormal`` truncated to the
            range, which spans two standard deviations on either side of its geometric mean.
        roughness_mm: Root mean square displacement of the edge along the wall in mm, 0 to 5.
    """

    where: Where
    area_cm2: Pair | None = None
    spread: Spread = "uniform"
    roughness_mm: float = 1.0

    def __post_init__(self) -> None:
        _check(f"defect region {self.where}", self.area_cm2, self.roughness_mm)
        if self.where not in WHERES:
            raise InputError(f"defect region: {self.where!r} is none of {', '.join(WHERES)}")

    def draw_area_cm2(self, rng: np.random.Generator) -> float:
        """Draw the area in cm2."""
        low, high = self.area_cm2 or AREAS_CM2[self.where]
        if self.spread == "uniform" or low == high:
            return float(rng.uniform(low, high))
        middle, deviation = math.log(low * high) / 2, math.log(high / low) / 4
        while not low <= (area := math.exp(rng.normal(middle, deviation))) <= high:
            pass
        return area

    def draw_places(self, rng: np.random.Generator) -> tuple[Place, ...]:
        """Draw the places of the openings, one or two."""
        match self.where:
            case "frontoorbital":
                return (_FRONT,)
            case "parietotemporal":
                return (_SIDE if rng.integers(2) else _mirrored(_SIDE),)
            case "bilateral":
                return (_ACROSS,) if rng.integers(2) else (_mirrored(_RIGHT), _RIGHT)
            case "random_1" | "random_2":
                return (_ANYWHERE,)


@dataclass(frozen=True)
class SkullBreakDefect:
    """An opening of one of several classes, each as likely as the others.

    Where a skull has no place for an opening of the class drawn, another class is drawn.

    Args:
        classes: The classes to draw from.
        area_cm2: As in `RegionDefect`, for all classes; None for each class's own range.
        spread: As in `RegionDefect`.
        roughness_mm: As in `RegionDefect`.
    """

    classes: Sequence[Where] = WHERES
    area_cm2: Pair | None = None
    spread: Spread = "uniform"
    roughness_mm: float = 1.0

    def __post_init__(self) -> None:
        _check("defect skullbreak", self.area_cm2, self.roughness_mm)
        if not self.classes or not set(self.classes) <= set(WHERES):
            raise InputError(
                f"defect skullbreak: classes {list(self.classes)} must be among {', '.join(WHERES)}"
            )

    def draw_classes(self, rng: np.random.Generator) -> list[RegionDefect]:
        """Return the classes in the order in which they are tried."""
        order = rng.permutation(len(self.classes))
        return [
            RegionDefect(self.classes[int(i)], self.area_cm2, self.spread, self.roughness_mm)
            for i in order
        ]


def _mirrored(place: Place) -> Place:
    low, high = place.azimuth_deg
    return Place((-high, -low), place.elevation_deg, place.floor_deg, place.across)


def _check(kind: str, area_cm2: Pair | None, roughness_mm: float) -> None:
    faults = []
    if area_cm2 is not None and not 0 < area_cm2[0] <= area_cm2[1] <= LARGEST_AREA_CM2:
        faults.append(
            f"{kind}: area_cm2 {list(area_cm2)} must be two areas above 0 in rising order, up to "
            f"{LARGEST_AREA_CM2:g} cm2"
        )
    if not 0 <= roughness_mm <= LARGEST_ROUGHNESS_MM:
        faults.append(
            f"{kind}: roughness_mm {roughness_mm:g} must be 0 to {LARGEST_ROUGHNESS_MM:g}"
        )
    if faults:
        raise InputError(*faults)
