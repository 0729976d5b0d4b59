"""A slice of a series and its position."""

from __future__ import annotations

from dataclasses import dataclass

from famseg.preparation.sources import Item

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Slice:
    """One slice of a series.

    Args:
        item: The file.
        frame: Number of the frame in a multi-frame file.
        position_mm: Center of its first pixel, LPS+.
        row: Unit vector along a row, from the first pixel to the next.
        column: Unit vector down a column.
        spacing_mm: Distance between pixels along a row and down a column.
        size: Pixels along a row and down a column.
        slope: Slope of the conversion of stored values to HU.
        intercept: Intercept of this conversion.
        padding: Stored value that marks missing values.
        syntax: UID of the transfer syntax.
        inverted: Whether low values are displayed bright (MONOCHROME1).
        location_mm: SliceLocation, if the header contains it.
        shown: Name of its file for messages; contains no personal data.
    """

    item: Item
    frame: int | None
    position_mm: Vector
    row: Vector
    column: Vector
    spacing_mm: tuple[float, float]
    size: tuple[int, int]
    slope: float
    intercept: float
    padding: float | None = None
    syntax: str = ""
    inverted: bool = False
    location_mm: float | None = None
    shown: str = "a slice"


def geometry_fault(
    position: tuple[float, ...] | None,
    orientation: tuple[float, ...] | None,
    spacing: tuple[float, ...] | None,
) -> str | None:
    """Return what is wrong with a slice's geometry, or None."""
    if spacing is None:
        return "PixelSpacing is missing or not a pair of numbers"
    if min(spacing) <= 0:
        return f"PixelSpacing is {spacing[0]:g} x {spacing[1]:g} mm"
    if position is None:
        return "ImagePositionPatient is missing or not three numbers"
    if orientation is None:
        return "ImageOrientationPatient is missing or not six numbers"
    row, column = orientation[:3], orientation[3:]
    lengths = [sum(x * x for x in v) for v in (row, column)]
    turned = abs(sum(a * b for a, b in zip(row, column, strict=True)))
    if any(abs(length - 1) > 0.01 for length in lengths) or turned > 0.01:
        return "ImageOrientationPatient is not a rotation: rows and columns are not at right angles"
    return None
