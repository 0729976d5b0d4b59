"""From an implant on the scan's grid to one that can be made and put in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from famseg.config import InputError
from famseg.meshes import (
    Gap,
    Mesh,
    insertion_direction,
    separated,
    surface_mesh,
    voxelize,
)
from famseg.meshes import (
    gap_mm as measured_gap,
)
from famseg.reconstruction._chart import Array, Mask, vault_middle_mm
from famseg.reconstruction._check import check_volumes
from famseg.reconstruction._flush import Step, step_mm
from famseg.reconstruction._outline import Box, bounding_box, pieces_of
from famseg.reconstruction._slivers import without_slivers
from famseg.reconstruction._thicken import thickened

_AROUND_MM = 12.0
_OVERLAP_VOXELS = 2.5
_NARROW = 0.9  # of the gap that was asked for


@dataclass(frozen=True, eq=False)
class Fitted:
    """An implant that can be made.

    Args:
        mask: Its voxels on the scan's grid; none is the skull's.
        mesh: Its surface in world mm.
        gap: Measured between mesh and bone, see `famseg.meshes.gap_mm`.
        step: How flush its outer surface is with the skull's, per piece, the largest first; None
            for a piece whose wall is no height field.
        direction: Unit vector of the movement into its place, RAS+.
        undercut_mm3: Volume of it that bone is in the way of.
        warnings: What its maker should know, one sentence each.
    """

    mask: Mask
    mesh: Mesh
    gap: Gap
    step: tuple[Step | None, ...]
    direction: Array
    undercut_mm3: float
    warnings: tuple[str, ...]


def fit(
    implant: Mask,
    skull: Mask,
    affine: Array,
    *,
    gap_mm: float = 0.0,
    min_thickness_mm: float = 0.0,
) -> Fitted:
    """Make an implant fit its defect.

    Films on sound bone and fillings of its pores go. Pieces of 0.1 ml and a twentieth of the
    largest stay. Where the implant is thinner than asked for it grows inwards, so that its outer
    surface remains flush with the skull. The mesh is the smooth surface of implant and adjoining
    bone together, off which bone and gap are cut: at the edge it neither rounds off nor steps. The
    mask is what that mesh encloses.

    Args:
        implant: Mask, shape ``(X, Y, Z)``.
        skull: The skull with the defect, same shape.
        affine: Maps voxel indices to RAS+ mm, shape ``(4, 4)``.
        gap_mm: Room between implant and bone; the 1st percentile of the measured gap is at least
            this less 0.1 mm.
        min_thickness_mm: The implant is nowhere thinner, but for its rim.

    Raises:
        InputError: If the masks do not fit together, a length is negative, or nothing is left of
            the implant.
    """
    check_volumes(skull, affine, implant=implant)
    if gap_mm < 0 or min_thickness_mm < 0:
        raise InputError("gap_mm and min_thickness_mm must be 0 or more")
    box = _around(implant, affine)
    place = _moved(affine, box)
    bone = skull[box]
    own = without_slivers(implant[box] & ~bone, bone)
    kept, dropped = pieces_of(own, place)
    if not kept:
        raise InputError("nothing is left of the implant: it was films on sound bone alone")
    own = np.zeros_like(own)
    for piece in kept:
        own[piece.box] |= piece.mask
    warnings = []
    if dropped:
        volume = sum(piece.volume_ml for piece in dropped)
        warnings.append(f"{len(dropped)} small pieces of the implant ({volume:.2f} ml) left out")
    origin = vault_middle_mm(skull, affine)
    own, notes = thickened(own, bone, place, origin, min_thickness_mm)
    mesh = _mesh(own, bone, place, gap_mm)
    mask = np.zeros(skull.shape, dtype=bool)
    mask[box] = voxelize(mesh, bone.shape, place) & ~bone
    walls = surface_mesh(bone, place)
    direction, undercut = insertion_direction(mesh, walls)
    gap = measured_gap(mesh, walls)
    return Fitted(
        mask, mesh, gap, step_mm(mask, skull, affine), direction, undercut, (*warnings, *notes)
    )


def _mesh(own: Mask, bone: Mask, place: Array, gap_mm: float) -> Mesh:
    """Return the surface of an implant with its gap.

    It is smoothed together with the bone beside it, which is then cut off again.
    """
    edges = np.linalg.norm(place[:3, :3], axis=0)
    reach = _OVERLAP_VOXELS * float(edges.max())
    beside = ndimage.distance_transform_edt(~own, sampling=edges) <= reach
    return separated(own | (bone & beside), bone, place, gap_mm)


def _around(mask: Mask, affine: Array) -> Box:
    """Return the box around a mask and 12 mm more."""
    box = bounding_box(mask)
    if box is None:
        raise InputError("the implant is empty: there is nothing to fit")
    steps = np.ceil(_AROUND_MM / np.linalg.norm(affine[:3, :3], axis=0)).astype(int)
    return tuple(
        slice(max(side.start - int(k), 0), min(side.stop + int(k), n))
        for side, k, n in zip(box, steps, mask.shape, strict=True)
    )


def _moved(affine: Array, box: Box) -> Array:
    moved = affine.astype(np.float64)
    moved[:3, 3] += affine[:3, :3] @ np.array([side.start for side in box], dtype=np.float64)
    return moved
