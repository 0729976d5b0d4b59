"""Conversion of an implant on the scan's grid to one that can be manufactured and inserted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from famseg.meshes import (
    Gap,
    Mesh,
    blunted,
    cut_gap,
    insertion_direction,
    simplify,
    surface_mesh,
    thickness_mm,
    undercut,
    voxelize,
    without_undercut,
)
from famseg.meshes import (
    gap_mm as measured_gap,
)
from famseg.messages import InputError
from famseg.reconstruction._chart import Array, Mask, vault_middle_mm
from famseg.reconstruction._check import check_volumes
from famseg.reconstruction._flush import Step, not_flush, steps_from
from famseg.reconstruction._outline import Box, pieces_of
from famseg.reconstruction._slivers import without_slivers
from famseg.reconstruction._thicken import grown_box, thickened
from famseg.reconstruction._threads import one_thread

_AROUND_MM = 12.0
_OVERLAP_VOXELS = 2.5
_FLAT_MM = 0.01  # tolerance for merging coplanar faces
_MOST_BLUNTED = 0.05  # of the volume; a rim is blunted less instead of being cut back farther
_LEAST_BLUNTED = 0.4  # of the requested thickness
_THICKNESS_SAMPLES = 2000
_TOO_THIN_MM = 0.1
_MUCH_TOO_THIN_MM = 0.3
_NO_UNDERCUT = 2e-4  # of the volume: less is a film that no line through the implant sees twice
_MOST_UNDERCUT = 0.05  # of the volume: an implant that lost more would not fill its defect


@dataclass(frozen=True, eq=False)
class Fitted:
    """An implant that can be manufactured.

    Args:
        mask: Its voxels on the scan's grid, without those of the skull.
        mesh: Its surface in world mm.
        gap: Gap measured between mesh and bone, see `famseg.meshes.gap_mm`.
        step: Step between its outer surface and the skull's, per piece, the largest first; None for
            a piece whose wall is not a height field.
        direction: Unit vector of insertion, RAS+.
        undercut_mm3: Volume that bone blocks on insertion.
        undercut_removed_mm3: Volume that was removed because bone blocked it.
        rim_removed_mm3: Volume of the thin rim that was removed.
        thickness: Thickness in mm, straight inwards from points spread evenly over its surface.
        warnings: Warnings for the manufacturer, one sentence each.
    """

    mask: Mask
    mesh: Mesh
    gap: Gap
    step: tuple[Step | None, ...]
    direction: Array
    undercut_mm3: float
    undercut_removed_mm3: float
    rim_removed_mm3: float
    thickness: Array
    warnings: tuple[str, ...]


@one_thread()
def fit(
    implant: Mask,
    skull: Mask,
    affine: Array,
    *,
    gap_mm: float = 0.0,
    min_thickness_mm: float = 0.0,
    remove_undercut: bool = True,
) -> Fitted:
    """Make an implant fit its defect.

    Thin films on intact bone and fillings of its pores are removed. Pieces of at least 0.1 ml and a
    twentieth of the largest are kept. Where the implant is thinner than requested, it grows
    inwards, so that its outer surface remains flush with the skull. The mesh is the smooth surface
    of the union of implant and adjoining bone, from which bone and gap are subtracted: this avoids
    rounding and steps at the edge. Then parts that would collide with bone on insertion are
    removed, and the rim where it is thinner than requested. The mask contains the voxels inside the
    mesh.

    Args:
        implant: Mask, shape ``(X, Y, Z)``.
        skull: The skull with the defect, same shape.
        affine: Maps voxel indices to RAS+ mm, shape ``(4, 4)``.
        gap_mm: Gap between implant and bone; the 1st percentile of the measured gap is at least
            this minus 0.1 mm.
        min_thickness_mm: Minimum thickness of the implant; if this would remove more than a
            twentieth of it, a warning states the actual minimum.
        remove_undercut: Remove parts that bone blocks, if they are less than a twentieth.

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
        raise InputError(
            "nothing is left of the implant: it consisted only of thin films on intact bone"
        )
    own = np.zeros_like(own)
    for piece in kept:
        own[piece.box] |= piece.mask
    warnings = []
    if dropped:
        volume = sum(piece.volume_ml for piece in dropped)
        warnings.append(f"{len(dropped)} small pieces of the implant ({volume:.2f} ml) left out")
    origin = vault_middle_mm(skull, affine)
    own, notes = thickened(own, bone, place, origin, min_thickness_mm)
    walls = surface_mesh(bone, place)
    mesh = _mesh(own, bone, place, walls, gap_mm)
    made = _insertable(mesh, walls, gap_mm, min_thickness_mm, remove_undercut=remove_undercut)
    mask = np.zeros(skull.shape, dtype=bool)
    mask[box] = voxelize(made.mesh, bone.shape, place) & ~bone
    thick = thickness_mm(made.mesh, samples=_THICKNESS_SAMPLES)
    step = steps_from(mask, skull, affine, origin)
    raised = not_flush(step, float(np.linalg.norm(affine[:3, :3], axis=0).max()))
    return Fitted(
        mask=mask,
        mesh=made.mesh,
        gap=measured_gap(made.mesh, walls),
        step=step,
        direction=made.direction,
        undercut_mm3=made.undercut_mm3,
        undercut_removed_mm3=made.undercut_removed_mm3,
        rim_removed_mm3=made.rim_removed_mm3,
        thickness=thick,
        warnings=(
            *raised,
            *warnings,
            *notes,
            *made.warnings,
            *_too_thin(thick, min_thickness_mm),
        ),
    )


def _mesh(own: Mask, bone: Mask, place: Array, walls: Mesh, gap_mm: float) -> Mesh:
    """Return the surface of an implant with a gap to the bone.

    It is smoothed together with the adjacent bone, which is then cut off again.
    """
    edges = np.linalg.norm(place[:3, :3], axis=0)
    reach = _OVERLAP_VOXELS * float(edges.max())
    near = grown_box(own, np.ceil(reach / edges).astype(int))
    beside = ndimage.distance_transform_edt(~own[near], sampling=edges) <= reach
    whole = own.copy()
    whole[near] |= bone[near] & beside
    solid = surface_mesh(whole, place)
    return simplify(cut_gap(solid, walls, gap_mm, float(edges.min())), max_error_mm=_FLAT_MM)


class _Made(NamedTuple):
    """An implant that can be inserted; see `Fitted`."""

    mesh: Mesh
    direction: Array
    undercut_mm3: float
    undercut_removed_mm3: float
    rim_removed_mm3: float
    warnings: tuple[str, ...]


def _insertable(
    mesh: Mesh, walls: Mesh, gap_mm: float, least_mm: float, *, remove_undercut: bool
) -> _Made:
    """Return an implant without undercut and thin rim, with the removed volumes."""
    direction, blocked = insertion_direction(mesh, walls)
    warnings: list[str] = []
    free = mesh
    if remove_undercut and blocked > _NO_UNDERCUT * mesh.volume_mm3:
        free = without_undercut(mesh, walls, direction)
        if free.volume_mm3 < (1 - _MOST_UNDERCUT) * mesh.volume_mm3:
            lost = (mesh.volume_mm3 - free.volume_mm3) / 1000
            warnings.append(
                f"Bone is in the way of the implant: {blocked / 1000:.1f} ml of it are undercut. "
                f"They were kept, because {lost:.1f} ml would have to be removed: enlarge the "
                "defect, or make the implant in two parts."
            )
            free = mesh
    whole = free
    wide = least_mm
    while least_mm > 0:
        rim = blunted(free, wide, walls, reach_mm=2 * least_mm + gap_mm)
        if rim.removed_mm3 <= _MOST_BLUNTED * free.volume_mm3:
            whole = rim.mesh
            break
        wide *= 0.6
        if wide < _LEAST_BLUNTED * least_mm:
            break
    return _Made(
        mesh=whole,
        direction=direction,
        undercut_mm3=undercut(whole, walls, direction) if whole is not mesh else blocked,
        undercut_removed_mm3=mesh.volume_mm3 - free.volume_mm3,
        rim_removed_mm3=free.volume_mm3 - whole.volume_mm3,
        warnings=tuple(warnings),
    )


def _too_thin(thick: Array, least_mm: float) -> list[str]:
    """Return a sentence if much of an implant is thinner than asked for, or some of it by much."""
    p5, thinnest = float(np.percentile(thick, 5)), float(thick.min())
    share = float((thick < least_mm - _TOO_THIN_MM).mean())
    if p5 >= least_mm - _TOO_THIN_MM:
        if thinnest >= least_mm - _MUCH_TOO_THIN_MM:
            return []
        return [
            f"The implant is thinner than the {least_mm:g} mm that were asked for on {share:.1%} "
            f"of its surface, down to {thinnest:.1f} mm: check its edges."
        ]
    return [
        f"The implant is thinner than the {least_mm:g} mm that were asked for on {share:.0%} of "
        f"its surface (5th percentile {p5:.1f} mm, thinnest place {thinnest:.1f} mm): the bone "
        "leaves no more room there."
    ]


def _around(mask: Mask, affine: Array) -> Box:
    """Return the bounding box of a mask with a margin of 12 mm."""
    if not mask.any():
        raise InputError("the implant is empty: there is nothing to fit")
    return grown_box(mask, np.ceil(_AROUND_MM / np.linalg.norm(affine[:3, :3], axis=0)).astype(int))


def _moved(affine: Array, box: Box) -> Array:
    moved = affine.astype(np.float64)
    moved[:3, 3] += affine[:3, :3] @ np.array([side.start for side in box], dtype=np.float64)
    return moved
