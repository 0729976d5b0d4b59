"""The settings of the preparation, which are the same for every subject of a data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from famseg.messages import InputError

Crop = Literal["vault", "none"]
Holes = Literal["keep", "enclosed", "close"]
Align = Literal["none", "symmetry"]


@dataclass(frozen=True)
class Settings:
    """Choices of `prepare_scan`.

    Why 226 HU: brain lies at 20 to 45 HU, fresh blood below 100, cortical bone above 700. Thin
    walls appear less dense because of the partial volume effect, so a threshold close to soft
    tissue keeps orbits and temples closed; 226 HU is the bone preset of software for cranial
    planning. Between 180 and 300 HU the surface of a vault moves by a fraction of a millimeter.
    Thinner slices and less noise allow a lower threshold; contrast agent in vessels requires a
    higher one.

    Why cavities are filled by default (``holes="enclosed"``): an enclosed cavity, such as marrow
    between the tables or a closed air cell, is not part of the surface that is fitted, printed or
    measured, and whether it is visible depends more on slice thickness and kernel than on the head.

    Args:
        size: Voxels along each edge of the grid; None fits the grid around each skull.
        spacing_mm: Edge of a voxel in mm; None keeps each scan's own spacing and needs ``size``
            None.
        threshold_hu: Threshold of bone for scans in Hounsfield units.
        threshold: Threshold of bone for scans with another scale; None determines it by Otsu's
            method from the values of the head.
        crop: ``vault`` cuts off the neck and everything else that lies more than
            ``below_vertex_mm`` below the highest bone; ``none`` keeps everything that is connected
            to the skull.
        below_vertex_mm: Height of the part of the head that is kept, in mm.
        holes: ``keep``: bone as scanned. ``enclosed``: cavities of up to 20 ml that bone encloses
            on all sides are filled. ``close``: before that, gaps up to ``close_mm`` wide are closed
            (marrow with openings, sutures, pores, small foramina).
        close_mm: Widest gap that ``close`` bridges, in mm.
        residual_limit_mm: A surface whose root mean square distance to the template after
            alignment, or to its own mirror image, exceeds this gets a warning.
        defect_limit_cm2: A hole in the vault of at least this area is reported as a defect.
        align: Alignment without a template: ``none`` keeps the pose, ``symmetry`` turns the head
            upright by its plane of symmetry and the base of the skull.
        label: The labels of a label map that are the skull: numbers or names, separated by commas;
            None takes the only label, or the one that the file calls skull.

    Raises:
        InputError: If numbers are out of range or contradict each other; one line for each problem.

    Example:
        >>> Settings(size=64, spacing_mm=3.5).below_vertex_mm
        150.0
    """

    size: int | None = 128
    spacing_mm: float | None = 1.75
    threshold_hu: float = 226.0
    threshold: float | None = None
    crop: Crop = "vault"
    below_vertex_mm: float = 150.0
    holes: Holes = "enclosed"
    close_mm: float = 4.0
    residual_limit_mm: float = 6.0
    defect_limit_cm2: float = 4.0
    align: Align = "none"
    label: str | None = None

    def __post_init__(self) -> None:
        faults = [*_choices(self), *_numbers(self), *_bounds(self)]
        if faults:
            raise InputError(*(f"preparation: {fault}" for fault in faults))


def _choices(settings: Settings) -> list[str]:
    faults = []
    for name, choice in (("crop", Crop), ("holes", Holes), ("align", Align)):
        value = getattr(settings, name)
        if value not in get_args(choice):
            faults.append(f"{name} {value!r}: give one of {', '.join(get_args(choice))}")
    if settings.spacing_mm is None and settings.size is not None:
        faults.append(
            f"size {settings.size} needs a spacing_mm; leave the size out to keep each scan's own"
        )
    if settings.label is not None and not all(p.strip() for p in settings.label.split(",")):
        faults.append(f"label {settings.label!r}: give numbers or names, separated by commas")
    return faults


def _numbers(settings: Settings) -> list[str]:
    """Return an error message for each number that is not finite; comparisons would accept NaN."""
    return [
        f"{name} {value}: give a number"
        for name, value in vars(settings).items()
        if isinstance(value, float) and not math.isfinite(value)
    ]


def _bounds(settings: Settings) -> list[str]:
    faults = []
    if settings.size is not None and not 16 <= settings.size <= 1024:
        faults.append(f"size {settings.size}: give 16 to 1024 voxels")
    bounds = {
        "spacing_mm": (0.1, 20.0, "mm"),
        "threshold_hu": (100.0, 1500.0, "HU: brain has 40, solid bone 1000"),
        "below_vertex_mm": (50.0, 400.0, "mm"),
        "close_mm": (0.5, 12.0, "mm"),
        "residual_limit_mm": (0.1, 100.0, "mm"),
        "defect_limit_cm2": (0.5, 200.0, "cm2"),
    }
    for name, (low, high, unit) in bounds.items():
        value = getattr(settings, name)
        if value is not None and (value < low or value > high):
            faults.append(f"{name} {value:g}: give {low:g} to {high:g} {unit}")
    return faults
