"""Computation of a rectangular grid from slice positions: order, gaps and gantry tilt.

With a tilted gantry, slices are stacked along the table and not along their normal, so the volume
is sheared. Each slice is therefore shifted within its own plane onto a grid whose third axis is the
normal: one interpolation within the plane corrects the tilt, and one along the normal corrects
uneven gaps. Positions, orientations and spacings are those of the Image Plane module (DICOM PS3.3,
C.7.6.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from famseg.messages import InputError
from famseg.preparation.dicom._slice import Slice

WIDEST_GAP_MM = 10.0
"""Slices farther apart than this are refused, since the vault between them would be a guess."""

_FEWEST = 3
_EVEN = 0.1  # share of a gap by which positions may deviate from an even spacing
_ROUNDED_MM = 0.11  # the same in mm, for headers rounded to 0.1 mm
_SAME_GAP = 0.05
_WIDE = 1.75  # a slice is missing in a gap this many times as wide as its neighbors
_SMALLEST_SHIFT = 0.1  # pixels

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plan:
    """Positions of the slices on a grid.

    Args:
        slices: The slices in order along their normal.
        heights_mm: Height of each slice above the first, shape ``(N,)``.
        shifts: Shift of each slice along its rows and down its columns in pixels, ``(N, 2)``.
        levels_mm: Heights of the slices of the grid, ``(Z,)``.
        shape: Voxels of the grid ``(X, Y, Z)``.
        affine: Maps voxel indices of the grid to mm in RAS+, ``(4, 4)``.
        notes: Corrections, for readers.
    """

    slices: tuple[Slice, ...]
    heights_mm: Array
    shifts: Array
    levels_mm: Array
    shape: tuple[int, int, int]
    affine: Array
    notes: tuple[str, ...]


def make_plan(slices: Sequence[Slice], *, tilt_deg: float = 0.0, derived: bool = False) -> Plan:
    """Return the plan for combining slices of equal size, orientation and spacing into a volume.

    Args:
        slices: The slices in any order, no two at the same position.
        tilt_deg: Tilt of the gantry stated in the headers.
        derived: Whether the headers say that the images were derived from other images.

    Returns:
        The plan.

    Raises:
        InputError: If slices are missing, too far apart or too few, or the headers contradict each
            other. The message is one line without a file name.
    """
    if len(slices) < _FEWEST:
        raise InputError(
            f"{len(slices)} slices, but a volume needs {_FEWEST} or more: give the folder of the "
            "whole series"
        )
    row, column = np.array(slices[0].row), np.array(slices[0].column)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    positions = np.array([part.position_mm for part in slices])
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order] - positions[order[0]]
    heights = positions @ normal
    levels, step, gap_note = _levels(heights, min(slices[0].spacing_mm))
    spacing = np.array(slices[0].spacing_mm)
    moved = np.column_stack([positions @ row, positions @ column])
    leaning = np.degrees(np.arccos(np.clip(np.abs(normal).max(), 0, 1)))
    told = 0.0 if abs(leaning - abs(tilt_deg)) < 1 else tilt_deg  # the orientation contains it, too
    moved, tilt_note = _tilt(moved, heights, spacing, told, derived=derived)
    shifts = (moved - moved.min(axis=0)) / spacing
    shifts = np.where(np.abs(shifts - np.round(shifts)) < 1e-3, np.round(shifts), shifts)
    across, down = (np.array(slices[0].size) + np.ceil(shifts.max(axis=0))).astype(int)
    origin = np.array(slices[order[0]].position_mm) + moved.min(axis=0) @ np.stack([row, column])
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([row * spacing[0], column * spacing[1], normal * step])
    affine[:3, 3] = origin
    return Plan(
        slices=tuple(slices[i] for i in order),
        heights_mm=heights,
        shifts=shifts,
        levels_mm=levels,
        shape=(int(across), int(down), len(levels)),
        affine=np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine,
        notes=tuple(note for note in (tilt_note, gap_note) if note),
    )


def _levels(heights: Array, finest_mm: float) -> tuple[Array, float, str]:
    """Return the heights of the grid's slices, their spacing, and a note on interpolation.

    Slices whose positions match the grid within the rounding of the headers are not interpolated.
    """
    gaps = np.diff(heights)
    count = len(heights)
    if gaps.max() > WIDEST_GAP_MM + 1e-3:
        where = int(np.argmax(gaps))
        raise InputError(
            f"{gaps.max():.1f} mm between slices {where + 1} and {where + 2} of {count}: up to "
            f"{WIDEST_GAP_MM:g} mm can be bridged; look for missing files or export a thinner "
            "reconstruction"
        )
    missing = _missing(gaps)
    if missing and max(missing.values()) > 1:
        where = max(missing, key=lambda i: missing[i])
        raise InputError(
            f"{missing[where]} slices in a row are missing between slices {where + 1} and "
            f"{where + 2} of {count} (a gap of {gaps[where]:.1f} mm): look for the missing files"
        )
    even = np.linspace(0.0, heights[-1], count + len(missing))
    step, near = even[1], max(_EVEN * even[1], _ROUNDED_MM)
    nearest = heights[np.abs(heights[None] - even[:, None]).argmin(axis=1)]
    levels = np.where(np.abs(nearest - even) <= near, nearest, even)
    if np.isin(heights, levels).all():
        note = (
            f"{len(missing)} of {len(even)} slices missing, one at a time: filled from the slices "
            "beside them."
        )
        return levels, float(step), note if missing else ""
    fine = max(float(gaps.min()), min(finest_mm, float(np.median(gaps))))
    levels = np.linspace(0.0, heights[-1], int(np.ceil(heights[-1] / fine - 1e-6)) + 1)
    note = (
        f"Slice gaps of {gaps.min():.2f} to {gaps.max():.2f} mm were made even at {levels[1]:.2f} "
        "mm by interpolation."
    )
    alone = f" {len(missing)} slices are missing, one at a time." if missing else ""
    return levels, float(levels[1]), note + alone


def _missing(gaps: Array) -> dict[int, int]:
    """Return how many slices are missing in which gaps.

    Three or more consecutive equal gaps are a section of the scan with its own spacing. One or two
    gaps that are much wider than those on either side mean that slices are missing.
    """
    runs: list[tuple[float, list[int]]] = []
    for i, gap in enumerate(gaps):
        if runs and abs(gap - runs[-1][0]) <= _SAME_GAP * runs[-1][0]:
            runs[-1][1].append(i)
        else:
            runs.append((float(gap), [i]))
    missing: dict[int, int] = {}
    for k, (gap, where) in enumerate(runs):
        beside = [runs[j][0] for j in (k - 1, k + 1) if 0 <= j < len(runs)]
        if len(where) < 3 and beside and gap >= _WIDE * max(beside):
            missing.update(dict.fromkeys(where, round(gap / max(beside)) - 1))
    return missing


def _tilt(
    moved: Array, heights: Array, spacing: Array, tilt_deg: float, *, derived: bool
) -> tuple[Array, str]:
    """Return the in-plane shifts in mm, or zeros if they are negligible, and a note."""
    extent = np.abs(moved - moved[0]).max(axis=0)
    slope = np.linalg.lstsq(heights[:, None], moved, rcond=None)[0][0]
    angle = float(np.degrees(np.arctan(np.hypot(*slope))))
    uneven = np.abs(moved - heights[:, None] * slope).max()
    if (extent <= _SMALLEST_SHIFT * spacing).all():
        if abs(tilt_deg) < 0.5:
            return np.zeros_like(moved), ""
        return np.zeros_like(moved), _tilt_without_shift(tilt_deg, derived=derived)
    if uneven > max(1.0, 2 * spacing.max()):
        return moved, (
            f"Slices are unevenly offset by up to {extent.max():.1f} mm within their planes: they "
            "were moved into place."
        )
    return moved, (
        f"Gantry tilt of {angle:.1f} degrees corrected: slices moved by up to {extent.max():.1f} "
        "mm within their planes."
    )


def _tilt_without_shift(tilt_deg: float, *, derived: bool) -> str:
    if derived:
        return (
            f"The header names a gantry tilt of {tilt_deg:g} degrees, but the positions show none: "
            "it was taken as corrected before."
        )
    raise InputError(
        f"the header names a gantry tilt of {tilt_deg:g} degrees, but the slices are straight "
        "above each other: the positions must be wrong; export the original series again"
    )
