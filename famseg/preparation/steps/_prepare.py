"""Preparation of one scan as an aligned, checked, binary skull."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.messages import InputError
from famseg.preparation._settings import Settings
from famseg.preparation._types import Finding, Prepared, Quality, Role, Scan
from famseg.preparation.steps._align import (
    Template,
    align,
    angle_deg,
    as_template,
    surface_residual_mm,
)
from famseg.preparation.steps._bone import Bone, Mask, find_bone
from famseg.preparation.steps._checks import truncated_vault, vault_hole
from famseg.preparation.steps._clean import Cleaned, bounding_box, clean_bone
from famseg.preparation.steps._companions import companion_masks
from famseg.preparation.steps._findings import metal_findings, size_findings, vessel_findings
from famseg.preparation.steps._grid import (
    BoneField,
    Grid,
    Matrix,
    bone_field,
    coverage,
    grown,
    kept_box,
    make_grid,
    moved_points,
    on_the_voxels,
    surface_points,
    to_ras,
    upright_frame,
)
from famseg.preparation.steps._slices import slices
from famseg.preparation.steps._streaks import streak_findings
from famseg.preparation.steps._symmetry import upright
from famseg.volumes import Volume

_SAMPLED_POINTS = 300_000
_LOST_SHARE = 0.02
_PLAY = 2  # voxels by which the grid may be shifted


class _Placed(NamedTuple):
    skull: NDArray[np.uint8]
    shares: NDArray[np.float32]  # share of bone in each voxel of the grid, before the cut
    grid: Grid
    to_source: Matrix
    asymmetry_mm: float | None
    turned_deg: float | None


def prepare_scan(
    scan: Scan,
    settings: Settings,
    *,
    companions: Mapping[tuple[Role, str], Scan] | None = None,
    template: Volume | None = None,
) -> Prepared:
    """Convert a scan to a skull on the grid, with all measurements and findings on its quality.

    Bone is segmented (`find_bone`), reduced to the skull (`clean_bone`), aligned to the template if
    there is one (`align`), and resampled to the grid in one interpolation (`coverage`). Without a
    template the head keeps its pose or is turned upright (`upright`), depending on the settings.
    The vertex is then at z = 0, a sixteenth of the grid below its upper end, and the bounding box
    of the skull is centered in x and y. With a template, skull and grid are in the world of the
    template.

    Args:
        scan: The scan, which is not modified.
        settings: Settings of the preparation.
        companions: Defective skulls and implants of the same head, by role and class of defect, in
            the world of the scan. Both roles are returned for each class; they are disjoint, and
            their union is the skull.
        template: Mask of the skull to align to, axes to the right, front and top.

    Returns:
        The skull, its companions and its quality. A CT of 512 x 512 x 300 voxels takes about
        1.5 GB and under a minute on one core.

    Raises:
        InputError: If there is no skull, or it does not fit into the grid.
    """
    ras = to_ras(scan.volume)
    aim = as_template(template) if template is not None else None
    bone = find_bone(ras.array, scan.kind, ras.spacing_mm, settings, scan.segments)
    hounsfield = scan.kind == "hounsfield"
    cleaned = clean_bone(bone, ras.array, ras.spacing_mm, settings, hounsfield=hounsfield)
    metal = [
        finding
        for look in (metal_findings, streak_findings)
        for finding in look(
            ras.array, cleaned.mask, bone.scale, ras.spacing_mm, hounsfield=hounsfield
        )
    ]
    truncated = truncated_vault(
        cleaned.mask,
        ras.spacing_mm,
        ras.array if bone.scale else None,
        bone.scale.tissue if bone.scale else 0.0,
    )
    field = bone_field(cleaned.mask, ras.affine, ras.array, bone.scale)
    placed = _place(cleaned, ras, field, settings, aim)
    volumes, companion_notes = companion_masks(
        placed.skull, placed.shares, placed.grid, placed.to_source, companions or {}, settings
    )
    notes = (*scan.notes, *bone.notes, *cleaned.notes, *companion_notes)
    cleaned = cleaned._replace(findings=(*cleaned.findings, *metal))
    quality = _quality(placed, bone, cleaned, ras, settings, aim, truncated=truncated, notes=notes)
    skull = Volume(placed.skull, placed.grid.affine)
    shown = slices(ras.array, ras.affine, bone.scale, field, placed.to_source, skull)
    return Prepared(skull, quality, volumes, to_source=placed.to_source, slices=shown)


def _place(
    cleaned: Cleaned, ras: Volume, field: BoneField, settings: Settings, aim: Template | None
) -> _Placed:
    """Resample the skull to the grid."""
    surface = surface_points(cleaned.mask, ras.affine)
    asymmetry = None
    if aim is None:
        turn = np.eye(4)
        if settings.align == "symmetry":
            turn, asymmetry = upright(surface)
        standing = moved_points(surface, np.asarray(np.linalg.inv(turn)))
        to_source = turn @ upright_frame(standing, settings)
        anchor = np.zeros(3)
    else:
        to_source = align(surface, aim)
        low, high = kept_box(aim.surface, float(aim.surface[:, 2].max()), settings)
        anchor = np.array([*(low + high)[:2] / 2, high[2]])
    own = moved_points(surface, np.asarray(np.linalg.inv(to_source), dtype=np.float64))
    box = kept_box(own, float(anchor[2]), settings)
    grid = make_grid(box, anchor, ras.spacing_mm, settings)
    if aim is None:
        to_source = on_the_voxels(to_source, grid, ras.affine)
    # The surface lies within its voxels, so only the result shows which layer is highest. The grid
    # is then shifted within the sampled margin, so that nothing is interpolated twice.
    wide = coverage(field, to_source, grid.widened(_PLAY))
    shares = _window(wide, np.zeros(3, dtype=np.intp), grid)
    skull = _cut(shares, grid, settings)
    steps = _off_place(skull, grid)
    if aim is None and steps.any():
        to_source = to_source.copy()
        to_source[:3, 3] += to_source[:3, :3] @ (steps * grid.spacing_mm)
        if np.abs(steps).max() <= _PLAY:
            shares = _window(wide, steps, grid)
        else:
            shares = coverage(field, to_source, grid)
        skull = _cut(shares, grid, settings)
    left_alone = aim is None and settings.align == "none"
    turned = None if left_alone else angle_deg(to_source)
    return _Placed(skull, shares, grid, to_source, asymmetry, turned)


def _window(wide: NDArray[np.float32], steps: NDArray[np.intp], grid: Grid) -> NDArray[np.float32]:
    """Return the shares on a grid shifted by some voxels, taken from those on a widened grid."""
    x, y, z = (slice(_PLAY + s, _PLAY + s + n) for s, n in zip(steps, grid.shape, strict=True))
    return wide[x, y, z].copy()


def _cut(shares: NDArray[np.float32], grid: Grid, settings: Settings) -> NDArray[np.uint8]:
    """Return the largest piece of bone in the grid above the cut."""
    mask = shares > 0.5
    mask[:, :, : _lowest(grid, settings)] = False
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count == 0:
        raise InputError(
            f"no bone is left at {max(grid.spacing_mm):.3g} mm: it is thinner than a voxel; use a "
            "smaller spacing_mm with a larger size"
        )
    if count > 1:
        mask = labels == 1 + np.argmax(np.bincount(labels[mask])[1:])
    return mask.astype(np.uint8)


def _lowest(grid: Grid, settings: Settings) -> int:
    """Return the index of the lowest layer that is kept."""
    if settings.crop == "none":
        return 0
    return max(0, grid.vertex - round(settings.below_vertex_mm / grid.spacing_mm[2]))


def _off_place(skull: NDArray[np.uint8], grid: Grid) -> NDArray[np.intp]:
    """Return the offset of the skull in voxels: of its center in x and y, of its vertex in z."""
    x, y, z = bounding_box(skull.astype(bool))
    middle = [(s.start + s.stop - n) // 2 for s, n in zip((x, y), grid.shape, strict=False)]
    return np.array([*middle, z.stop - 1 - grid.vertex])


# Long because it collects every finding of a skull in one place, in the order of the report.
def _quality(
    placed: _Placed,
    bone: Bone,
    cleaned: Cleaned,
    ras: Volume,
    settings: Settings,
    aim: Template | None,
    *,
    truncated: bool,
    notes: tuple[str, ...],
) -> Quality:
    grid, skull = placed.grid, placed.skull
    spacing = np.array(grid.spacing_mm)
    box = bounding_box(skull.astype(bool))
    x, y, z = ((s.stop - s.start) * e for s, e in zip(box, grid.spacing_mm, strict=True))
    volume_ml = float(np.count_nonzero(skull) * np.prod(spacing) / 1000)
    hole = vault_hole(skull, grid.spacing_mm, truncated=truncated)
    defect = hole is not None and hole.area_cm2 >= settings.defect_limit_cm2
    neck_ml, lost = _below_and_lost(placed, cleaned.mask, ras.affine, settings)
    removed = dict(cleaned.removed_ml)
    if settings.crop == "vault":
        removed["neck"] = removed.get("neck", 0.0) + neck_ml
    residual = None
    if aim is not None:
        surface = surface_points(skull.astype(bool), grid.affine)
        residual = surface_residual_mm(surface, aim)
    findings = [
        *cleaned.findings,
        *_findings(
            settings,
            truncated=truncated,
            lost=lost,
            residual=residual,
            asymmetry=placed.asymmetry_mm,
        ),
        *vessel_findings(skull, grid.spacing_mm, truncated=truncated),
        *size_findings(skull, grid.spacing_mm, volume_ml, (x, y, z), truncated=truncated),
    ]
    if defect and hole is not None:
        text = (
            f"The vault has a defect of {hole.area_cm2:.0f} cm2, {hole.where}: is it from an "
            "operation or an injury, or is the bone too thin for the threshold?"
        )
        findings.append(Finding("existing_defect", "look", text))
    return Quality(
        volume_ml=volume_ml,
        box_mm=(x, y, z),
        components=cleaned.components,
        removed_ml=removed,
        truncated_vault=truncated,
        existing_defect=defect,
        threshold=bone.scale.threshold if bone.scale else None,
        source_spacing_mm=ras.spacing_mm,
        spacing_mm=grid.spacing_mm,
        alignment_residual_mm=residual,
        warnings=(*notes, *(finding.text for finding in findings)),
        hole_cm2=hole.area_cm2 if hole else 0.0,
        findings=tuple(findings),
        asymmetry_mm=placed.asymmetry_mm,
        turned_deg=placed.turned_deg,
    )


def _findings(
    settings: Settings,
    *,
    truncated: bool,
    lost: float,
    residual: float | None,
    asymmetry: float | None,
) -> list[Finding]:
    findings = []
    if truncated:
        text = (
            "The vault is cut off by the border of the scan: a part of its top or side is missing."
        )
        findings.append(Finding("cut_vault", "look", text))
    if lost > _LOST_SHARE:
        text = (
            f"{100 * lost:.0f} % of the bone is too thin for the voxels of the grid and was lost: "
            "use a smaller spacing_mm with a larger size."
        )
        findings.append(Finding("thin_bone", "look", text))
    if residual is not None and residual > settings.residual_limit_mm:
        text = (
            f"After alignment the surface is {residual:.1f} mm from the template's, more than "
            f"{settings.residual_limit_mm:g} mm: check the pose."
        )
        findings.append(Finding("alignment", "look", text))
    if asymmetry is not None and asymmetry > settings.residual_limit_mm:
        text = (
            f"The mirror image of the skull is {asymmetry:.1f} mm from it, more than "
            f"{settings.residual_limit_mm:g} mm: its plane of symmetry may be wrong; check the "
            "pose."
        )
        findings.append(Finding("alignment", "look", text))
    return findings


def _below_and_lost(
    placed: _Placed, source: Mask, affine: Matrix, settings: Settings
) -> tuple[float, float]:
    """Return the bone below the cut in ml, and the share of the rest outside the grid.

    Bone is inside if its voxel of the grid or a neighbor is bone. Both numbers are estimated from a
    regular sample of the scan's bone voxels.
    """
    flat = np.flatnonzero(source.T)  # scans are stored slice by slice
    total_ml = flat.size * abs(np.linalg.det(affine[:3, :3])) / 1000
    flat = flat[:: max(1, flat.size // _SAMPLED_POINTS)]
    points = np.stack(np.unravel_index(flat, source.T.shape), axis=1)[:, ::-1]
    to_grid = np.linalg.inv(placed.to_source @ placed.grid.affine) @ affine
    index = np.rint(moved_points(points, to_grid)).astype(np.intp)
    kept = index[index[:, 2] >= _lowest(placed.grid, settings)]
    inside = np.all((kept >= 0) & (kept < placed.grid.shape), axis=1)
    near = grown(placed.skull.astype(bool))
    shown = near[tuple(np.where(inside[:, None], kept, 0).T)] & inside
    return total_ml * (1 - len(kept) / len(index)), float(1 - shown.mean()) if len(kept) else 0.0
