"""From an implant on the scan's grid to one that can be made and put in."""

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
_FLAT_MM = 0.01  # faces that lie in a plane but for this become fewer
_MOST_BLUNTED = 0.05  # of the volume: a rim is blunted less rather than cut back farther
_LEAST_BLUNTED = 0.4  # of the thickness that was asked for
_THICKNESS_SAMPLES = 2000
_TOO_THIN_MM = 0.1
_MUCH_TOO_THIN_MM = 0.3
_NO_UNDERCUT = 2e-4  # of the volume: less is a film that no line through the implant sees twice
_MOST_UNDERCUT = 0.05  # of the volume: an implant that lost more would not fill its defect


@dataclass(frozen=True, eq=False)
class Fitted:
    """An implant that can be made.

    Args:
        mask: Its voxels on the scan's grid; none is the skull's.
        mesh: Its surface in world mm.
        gap: Measured between mesh and bone, see `famseg.meshes.gap_mm`.
        step: How flush its outer surface is with the skull's, per piece, the largest first; None
            for a piece whose wall is not a height field.
        direction: Unit vector of the movement into its place, RAS+.
        undercut_mm3: Volume of it that bone is in the way of.
        undercut_removed_mm3: Volume that was cut off because bone was in its way.
        rim_removed_mm3: Volume of the thin rim that was taken off.
        thickness: Straight inwards from points spread evenly over its surface, mm.
        warnings: What its maker should know, one sentence each.
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

    Films on sound bone and fillings of its pores go. Pieces of 0.1 ml and a twentieth of the
    largest stay. Where the implant is thinner than asked for it grows inwards, so that its outer
    surface remains flush with the skull. The mesh is the smooth surface of implant and adjoining
    bone together, off which bone and gap are cut: at the edge it neither rounds off nor steps.
    Then goes what bone is in the way of when it is put in, and the rim where it runs out thinner
    than asked for. The mask is what that mesh encloses.

    Args:
        implant: Mask, shape ``(X, Y, Z)``.
        skull: The skull with the defect, same shape.
        affine: Maps voxel indices to RAS+ mm, shape ``(4, 4)``.
        gap_mm: Room between implant and bone; the 1st percentile of the measured gap is at least
            this less 0.1 mm.
        min_thickness_mm: The implant is nowhere thinner; where this would take more than a
            twentieth of it, a warning says how thin it is.
        remove_undercut: Cut off what bone is in the way of, if that is less than a twentieth.

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
    """Return the surface of an implant with its gap.

    It is smoothed together with the bone beside it, which is then cut off again.
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
    """An implant that can be put in; see `Fitted`."""

    mesh: Mesh
    direction: Array
    undercut_mm3: float
    undercut_removed_mm3: float
    rim_removed_mm3: float
    warnings: tuple[str, ...]


def _insertable(
    mesh: Mesh, walls: Mesh, gap_mm: float, least_mm: float, *, remove_undercut: bool
) -> _Made:
    """Return an implant without undercut and thin rim, and what that cost."""
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
    """Return the box around a mask and 12 mm more."""
    if not mask.any():
        raise InputError("the implant is empty: there is nothing to fit")
    return grown_box(mask, np.ceil(_AROUND_MM / np.linalg.norm(affine[:3, :3], axis=0)).astype(int))


def _moved(affine: Array, box: Box) -> Array:
    moved = affine.astype(np.float64)
    moved[:3, 3] += affine[:3, :3] @ np.array([side.start for side in box], dtype=np.float64)
    return moved
