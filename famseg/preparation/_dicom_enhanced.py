"""Enhanced CT: all slices in one file, their positions in groups for each frame."""

from __future__ import annotations

import pydicom

from famseg.preparation._dicom_slice import Slice, geometry_fault, numbers
from famseg.preparation._items import Item


def frames_of(
    item: Item, data: pydicom.Dataset, frames: int
) -> tuple[tuple[Slice, ...], str | None]:
    """Return the slices of a file with many frames, or why there are none.

    A value may stand in the group of its frame or in the one that all frames share.

    Args:
        item: The file.
        data: Its header.
        frames: How many frames it announces.
    """
    groups = data.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        return (), f"{frames} frames in one file without a position for each"
    if len(groups) != frames:
        return (), f"{frames} frames in one file, but positions for {len(groups)}"
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
            return (), f"frame {number + 1}: {fault}"
        if _number(both, "FrameContentSequence", "TemporalPositionIndex", 1) > 1:
            return (), "4D: it holds several points in time; export one of them as a series"
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
    return tuple(slices), None


def _value(groups: tuple[pydicom.Dataset, ...], sequence: str, name: str) -> object:
    """Return a value of the first group that has it."""
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
