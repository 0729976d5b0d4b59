"""Resampling of defective skulls and implants to the grid of the complete skull."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from famseg.messages import InputError
from famseg.preparation._settings import Settings
from famseg.preparation._types import Role, Scan
from famseg.preparation.steps._bone import find_bone
from famseg.preparation.steps._clean import fill_holes
from famseg.preparation.steps._grid import Grid, Matrix, bone_field, coverage, to_ras
from famseg.volumes import Volume

_STRAY_SHARE = 0.05  # share of an implant outside the skull

Shares = NDArray[np.float32]


def companion_masks(
    skull: NDArray[np.uint8],
    shares: Shares,
    grid: Grid,
    to_source: Matrix,
    scans: Mapping[tuple[Role, str], Scan],
    settings: Settings,
) -> tuple[dict[tuple[Role, str], Volume], list[str]]:
    """Return both parts of the skull for each class of defect, and notes on inconsistencies.

    Masks that are resampled separately overlap or leave gaps. Each voxel of the skull is therefore
    assigned to the part that fills more of it, so that the parts are disjoint and their union is
    the skull. If a class has only one part, the other one is the rest of the skull.

    Args:
        skull: Mask of 0 and 1 on the grid.
        shares: Share of bone in each voxel of the grid.
        grid: The voxel grid.
        to_source: Maps mm of the grid's world to mm of the scans' world.
        scans: The parts by role and class of defect.
        settings: Thresholds for parts that are CTs.
    """
    volumes: dict[tuple[Role, str], Volume] = {}
    notes: list[str] = []
    for defect in dict.fromkeys(name for _, name in scans):
        covered: dict[Role, Shares] = {}
        roles: tuple[Role, Role] = ("defective", "implant")
        for role in roles:
            if (role, defect) in scans:
                name = f"{role} {defect}".strip()
                part, odd = _part(scans[role, defect], name, grid, to_source, settings)
                covered[role] = part
                notes += [f"{name}: {note}" for note in odd]
        # A missing part is the complement of the other one.
        given = next(iter(covered.values()))
        implant = covered.get("implant", shares - given)
        defective = covered.get("defective", shares - given)
        taken = skull.astype(bool) & (implant > defective)
        notes += _odd(taken, implant, skull, defect)
        volumes["defective", defect] = Volume((skull & ~taken).astype(np.uint8), grid.affine)
        volumes["implant", defect] = Volume(taken.astype(np.uint8), grid.affine)
    return volumes, notes


def _part(
    scan: Scan, name: str, grid: Grid, to_source: Matrix, settings: Settings
) -> tuple[Shares, list[str]]:
    """Return the share of each voxel of the grid that a part fills."""
    ras = to_ras(scan.volume)
    try:
        bone = find_bone(ras.array, scan.kind, ras.spacing_mm, settings)
    except InputError as error:
        raise InputError(*(f"{name}: {fault}" for fault in error.faults)) from error
    # As in the skull: a cavity that is filled only there would count as implant.
    mask = fill_holes(bone.mask, ras.spacing_mm, settings)
    field = bone_field(mask, ras.affine, ras.array, bone.scale)
    return coverage(field, to_source, grid), [*scan.notes, *bone.notes]


def _odd(
    taken: NDArray[np.bool_], implant: Shares, skull: NDArray[np.uint8], defect: str
) -> list[str]:
    name = f"implant {defect}".strip()
    if not taken.any():
        return [f"{name}: none of it is on the grid, or it is not part of the skull."]
    stray = float(implant[skull == 0].sum() / max(float(implant.sum()), 1e-9))
    solid = implant > 0.5
    if solid.any() and np.count_nonzero(solid & (skull == 0)) > _STRAY_SHARE * solid.sum():
        return [f"{name}: {100 * stray:.0f} % of it is outside the skull."]
    return []
