"""Separation of several reconstructions or acquisitions that share one series UID."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from famseg.messages import InputError
from famseg.preparation.dicom._header import Header
from famseg.preparation.dicom._slice import Slice

_FEWEST = 3  # minimum number of slices in a stack
_SHARED = 0.5  # of the shorter stack; with more overlap, both show the same part of the body
_EVEN = 0.1  # share of a gap, and the rounding of headers in mm
_ROUNDED_MM = 0.11

# A different kernel always means another reconstruction. The other properties may also vary between
# the slices of one scan.
_KERNEL: tuple[str, Callable[[Header], Hashable]] = ("kernel", lambda h: h.kernel)
_OTHERS: tuple[tuple[str, Callable[[Header], Hashable]], ...] = (
    ("slice thickness", lambda h: h.thickness_mm),
    ("acquisition", lambda h: h.acquisition),
    ("original and derived images", lambda h: "DERIVED" in h.image_type),
)


class _Stack(NamedTuple):
    headers: list[Header]
    heights: list[float]  # sorted, mm

    @property
    def length_mm(self) -> float:
        return self.heights[-1] - self.heights[0]

    @property
    def gap_mm(self) -> float:
        return float(np.median(np.diff(self.heights)))


def best_stack(headers: Sequence[Header]) -> tuple[list[Header], tuple[str, ...]]:
    """Return the files of one reconstruction, and a note if there are several.

    Files are separated by kernel and, if they do not form one even stack, also by slice thickness,
    acquisition and whether images are original. The result must be stacks of at least three slices
    that show the same part of the body; sections of one scan that lie one above another stay
    together. The best stack is original, covers the largest range (within a tenth), has the
    smallest spacing, and was acquired first.

    Args:
        headers: Headers of a series, each with its slices.
    """
    rest, notes = list(headers), []
    for what, key in (_KERNEL, *_OTHERS):
        if any(len(h.slices) != 1 for h in rest):
            break
        if what != _KERNEL[0] and _is_even(_stack(rest)):
            break
        stacks = _parted(rest, key)
        if stacks is None:
            continue
        best = min(stacks, key=lambda s: _rank(s, max(t.length_mm for t in stacks)))
        each = ", ".join(f"{len(s.headers)} slices {s.gap_mm:.3g} mm apart" for s in stacks)
        notes.append(
            f"{len(stacks)} reconstructions in one series, distinguished by {what} ({each}): the "
            f"one with {len(best.headers)} slices {best.gap_mm:.3g} mm "
            f"apart{_first_of(best, stacks)} was taken."
        )
        rest = best.headers
    return rest, tuple(notes)


def placed(
    slices: Sequence[Slice],
) -> tuple[list[Slice], tuple[str, ...]]:
    """Return slices that all state the same position, moved to the heights in SliceLocation.

    Args:
        slices: Slices of a series.

    Raises:
        InputError: If several slices have the same position and nothing else determines where they
            lie.
    """
    if len({part.position_mm for part in slices}) > 1 or len(slices) < _FEWEST:
        return list(slices), ()
    locations = [part.location_mm for part in slices if part.location_mm is not None]
    if len(set(locations)) < len(slices):
        raise InputError(
            f"all {len(slices)} slices state the same position (ImagePositionPatient), so their "
            "order and distance are not known: export the series again"
        )
    lowest = min(locations)
    moved = []
    for part in slices:
        normal = np.cross(part.row, part.column)
        up = np.array(part.position_mm) + ((part.location_mm or 0.0) - lowest) * normal
        x, y, z = (float(value) for value in up)
        moved.append(replace(part, position_mm=(x, y, z)))
    return moved, (
        "All slices state the same position (ImagePositionPatient): they were sorted by "
        "SliceLocation, upwards. Check that top and bottom, left and right are correct.",
    )


def _parted(headers: list[Header], key: Callable[[Header], Hashable]) -> list[_Stack] | None:
    """Return stacks that differ in a property and show the same part, or None."""
    groups: dict[Hashable, list[Header]] = defaultdict(list)
    for header in headers:
        groups[key(header)].append(header)
    if len(groups) < 2 or any(len(group) < _FEWEST for group in groups.values()):
        return None
    stacks = [_stack(group) for group in groups.values()]
    longest = max(stacks, key=lambda s: s.length_mm)
    if any(not _overlaps(stack, longest) for stack in stacks):
        return None
    return stacks


def _stack(headers: Sequence[Header]) -> _Stack:
    first = headers[0].slices[0]
    normal = np.cross(first.row, first.column)
    heights = sorted(float(np.dot(h.slices[0].position_mm, normal)) for h in headers)
    return _Stack(list(headers), heights)


def _overlaps(one: _Stack, other: _Stack) -> bool:
    low = max(one.heights[0], other.heights[0])
    high = min(one.heights[-1], other.heights[-1])
    return high - low > _SHARED * min(one.length_mm, other.length_mm)


def _is_even(stack: _Stack) -> bool:
    gaps = np.diff(stack.heights)
    near = max(_EVEN * stack.gap_mm, _ROUNDED_MM)
    return len(gaps) == 0 or bool(np.abs(gaps - stack.gap_mm).max() <= near)


def _rank(stack: _Stack, longest_mm: float) -> tuple[bool, float, float, int, str]:
    first = stack.headers[0]
    share = stack.length_mm / longest_mm if longest_mm > 0 else 1.0
    return (
        "DERIVED" in first.image_type,
        -round(share, 1),
        round(stack.gap_mm, 2),
        min(header.acquisition for header in stack.headers),
        min(header.item.place.as_posix() for header in stack.headers),
    )


def _first_of(best: _Stack, stacks: Sequence[_Stack]) -> str:
    """Return the criterion that distinguishes the best stack from similar ones."""
    alike = [s for s in stacks if len(s.headers) == len(best.headers)]
    return " that was acquired first" if len(alike) > 1 else ""
