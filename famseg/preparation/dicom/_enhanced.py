"""Multi-frame files: enhanced CT, and older files without functional groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pydicom
from numpy.typing import NDArray

from famseg.preparation._numbers import numbers
from famseg.preparation.dicom._slice import Slice, Vector, geometry_fault
from famseg.preparation.sources import Item

_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def frames_of(
    item: Item, data: pydicom.Dataset, frames: int
) -> tuple[tuple[Slice, ...], str | None, tuple[str, ...]]:
    """Return the slices of a multi-frame file, or why there are none, and what was assumed.

    A value is in the functional group of its frame or in the shared one (DICOM PS3.3, C.7.6.16).
    Cone-beam scanners write files without such groups, with one position for all frames and the
    distance between them.

    Args:
        item: The file.
        data: Its header.
        frames: Number of frames according to the header.
    """
    groups = data.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        return _without_groups(item, data, frames)
    if len(groups) != frames:
        return (), f"{frames} frames in one file, but positions for only {len(groups)}", ()
    shared = data.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    padding = data.get("PixelPaddingValue")
    slices: list[Slice] = []
    for number, group in enumerate(groups):
        both = (group, shared[0])
        position = numbers(_value(both, "PlanePositionSequence", "ImagePositionPatient"), 3)
        turned = numbers(_value(both, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
        spacing = numbers(_value(both, "PixelMeasuresSequence", "PixelSpacing"), 2)
        fault = geometry_fault(position, turned, spacing)
        if fault is not None or position is None or turned is None or spacing is None:
            return (), f"frame {number + 1}: {fault}", ()
        if _number(both, "FrameContentSequence", "TemporalPositionIndex", 1) > 1:
            return (), "4D: it contains several points in time; export one of them as a series", ()
        values = "PixelValueTransformationSequence"
        slices.append(
            Slice(
                item=item,
                frame=number,
                position_mm=(position[0], position[1], position[2]),
                row=(turned[0], turned[1], turned[2]),
                column=(turned[3], turned[4], turned[5]),
                spacing_mm=(spacing[1], spacing[0]),
                size=(int(data.Columns), int(data.Rows)),
                slope=_number(both, values, "RescaleSlope", 1),
                intercept=_number(both, values, "RescaleIntercept", 0),
                padding=float(padding) if isinstance(padding, int) else None,
            )
        )
    return tuple(slices), None, ()


def _without_groups(
    item: Item, data: pydicom.Dataset, frames: int
) -> tuple[tuple[Slice, ...], str | None, tuple[str, ...]]:
    """Return frames stacked along the normal, starting at the only position given."""
    spacing = numbers(data.get("PixelSpacing"), 2)
    offsets = _offsets(data, frames)
    if offsets is None or spacing is None:
        missing = "PixelSpacing" if spacing is None else "distance between them"
        return (), f"{frames} frames in one file without a position for each, and no {missing}", ()
    given = numbers(data.get("ImageOrientationPatient"), 6)
    turned = given or _AXIAL
    position = numbers(data.get("ImagePositionPatient"), 3) or (0.0, 0.0, 0.0)
    fault = geometry_fault(position, turned, spacing)
    if fault is not None:
        return (), fault, ()
    row, column = turned[:3], turned[3:]
    normal = np.cross(row, column)
    padding = data.get("PixelPaddingValue")
    slices = tuple(
        Slice(
            item=item,
            frame=number,
            position_mm=_vector(np.asarray(position) + offset * normal),
            row=_vector(row),
            column=_vector(column),
            spacing_mm=(spacing[1], spacing[0]),
            size=(int(data.Columns), int(data.Rows)),
            slope=float(data.get("RescaleSlope") or 1),
            intercept=float(data.get("RescaleIntercept") or 0),
            padding=float(padding) if isinstance(padding, int) else None,
        )
        for number, offset in enumerate(offsets)
    )
    axial = "" if given else " and to be axial"
    return (
        slices,
        None,
        (
            "The frames of the file have no positions of their own: they were assumed to follow "
            f"one another upwards{axial}. Check that top and bottom, left and right are correct.",
        ),
    )


def _offsets(data: pydicom.Dataset, frames: int) -> Sequence[float] | None:
    """Return the distance of each frame from the first along the normal, or None if not stated."""
    for name in ("GridFrameOffsetVector", "SliceLocationVector"):
        stated = numbers(data.get(name), frames)
        if stated is not None:
            return [offset - stated[0] for offset in stated]
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        step = numbers(data.get(name), 1)
        if step is not None and step[0] != 0:
            return [abs(step[0]) * number for number in range(frames)]
    return None


def _vector(values: Sequence[float] | NDArray[np.float64]) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _value(groups: tuple[pydicom.Dataset, ...], sequence: str, name: str) -> object:
    """Return a value from the first group that contains it."""
    for group in groups:
        part = group.get(sequence)
        if part and part[0].get(name) is not None:
            return part[0].get(name)
    return None


def _number(
    groups: tuple[pydicom.Dataset, ...], sequence: str, name: str, otherwise: float
) -> float:
    found = numbers([_value(groups, sequence, name)], 1)
    return found[0] if found is not None else otherwise
