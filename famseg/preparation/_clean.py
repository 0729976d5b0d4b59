"""From all bone of a scan to one skull: without table, holder, neck and loose pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- the name its users know it by
from numpy.typing import NDArray
from scipy import ndimage

from famseg.config import InputError
from famseg.preparation._bone import Bone, Mask, solid_core, working_steps
from famseg.preparation._plates import Surroundings, surroundings
from famseg.preparation._settings import Settings
from famseg.preparation._types import Finding

_PIECE_ML = 0.1  # smaller pieces are noise and are not counted
_HEAD_PIECE_ML = 10.0  # the vertex belongs to a piece of at least this size
_SMALLEST_SKULL_ML = 20.0
_SECOND_HEAD = 0.5  # of the largest piece
_REACH_MM = 10.0  # from the solid core of the head: nose and ears are within
_TURN_MM = 60.0  # what a tilted head may need below the cut before it is turned upright
_LARGEST_CAVITY_ML = 20.0  # the cranial cavity holds 1400 ml, a large frontal sinus 15
_FULL = np.ones((3, 3, 3), dtype=bool)

Spacing = tuple[float, float, float]
Box = tuple[slice, slice, slice]


class Cleaned(NamedTuple):
    """One skull in the voxels of its scan.

    Args:
        mask: The skull, shape of the scan.
        removed_ml: Bone that was removed, by reason.
        components: Pieces of at least 0.1 ml before all but the largest were removed.
        notes: What to look at, one sentence each.
        findings: What lay next to the head.
    """

    mask: Mask
    removed_ml: dict[str, float]
    components: int
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()


def clean_bone(
    bone: Bone,
    values: NDArray[Any],
    spacing_mm: Spacing,
    settings: Settings,
    *,
    hounsfield: bool = False,
) -> Cleaned:
    """Reduce the bone of a scan to the skull.

    1. Table and holder: bone outside the envelope of the head goes. The envelope is the largest
       solid body of tissue (a ball of 6 mm fits in, which shells of tables and holders do not
       allow even where they touch the skin) and what hangs on it within 10 mm. Plates that leave
       the body go with what of them touches it (`surroundings`). Masks and dry skulls have no
       tissue; there a table is a loose piece.
    2. Neck: what lies far below the head is cut off roughly, so that a spine cannot be taken for
       the largest piece. The exact cut is made on the final grid.
    3. Loose pieces: all but the largest piece go (26-connected).
    4. Cavities are filled as `Settings.holes` says.

    Args:
        bone: Bone of the scan; its mask is not kept.
        values: The scan, shape ``(X, Y, Z)``, axes to the right, front and top.
        spacing_mm: Edge of a voxel along each axis.
        settings: What to cut and to fill.
        hounsfield: Whether values are HU, so that metal can be told.

    Returns:
        The skull in the voxels of the scan.

    Raises:
        InputError: If no piece is large enough for a skull.
    """
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    total = np.count_nonzero(bone.mask)
    mask = bone.mask
    removed: dict[str, float] = {}
    envelope = head_envelope(values, bone.scale.tissue, spacing_mm) if bone.scale else None
    findings: list[Finding] = []
    if envelope is not None and bone.scale is not None:
        mask = mask & envelope
        beside = surroundings(
            bone.mask, values, bone.scale.tissue, spacing_mm, hounsfield=hounsfield
        )
        near = np.count_nonzero(mask)
        mask = beside.without_plates(mask) if beside else mask
        touching_ml = voxel_ml * (near - np.count_nonzero(mask))
        findings = _beside(beside, touching_ml) if beside else []
        removed["table and holder"] = voxel_ml * (total - np.count_nonzero(mask))
    kept = np.count_nonzero(mask)
    if settings.crop == "vault":
        mask = _without_neck(mask, spacing_mm, settings.below_vertex_mm + _TURN_MM)
        removed["neck"] = voxel_ml * (kept - np.count_nonzero(mask))
    mask, sizes_ml = _largest(mask, voxel_ml)
    removed["other pieces"] = float(sum(sizes_ml[1:]))
    mask = fill_holes(mask, spacing_mm, settings)
    counted = int(np.sum(np.array(sizes_ml) >= _PIECE_ML))
    if len(sizes_ml) > 1 and sizes_ml[1] > _SECOND_HEAD * sizes_ml[0] and not findings:
        text = f"A second piece of {sizes_ml[1]:.0f} ml lies next to the skull: a second head?"
        findings.append(Finding("second_head", "look", text))
    notes = tuple(_piece_notes(sizes_ml, counted))
    return Cleaned(mask, removed, counted, notes, tuple(findings))


def _beside(beside: Surroundings, touching_ml: float) -> list[Finding]:
    """Return findings on what lies next to the head."""
    findings = []
    if beside.second_ml > 0:
        text = (
            f"A second body of {beside.second_ml:.0f} ml lies next to the head and was left out: a "
            "second head, or arms?"
        )
        findings.append(Finding("second_head", "look", text))
    if beside.metal:
        text = (
            "A frame or pins of metal reach from the head outwards: what lies outside was removed. "
            "Look where pins enter the bone."
        )
        findings.append(Finding("frame", "look", text))
    elif touching_ml >= _PIECE_ML:
        text = (
            f"A table or holder touches the head: {touching_ml:.1f} ml of it were removed at the "
            "skin. Look whether something of it remains."
        )
        findings.append(Finding("table", "look", text))
    return findings


def _piece_notes(sizes_ml: list[float], counted: int) -> list[str]:
    notes = []
    if len(sizes_ml) > 1 and sizes_ml[1] > 0.03 * sizes_ml[0]:
        notes.append(
            f"A loose piece of {sizes_ml[1]:.0f} ml was removed from a skull of "
            f"{sizes_ml[0]:.0f} ml: a jaw, a vertebra or a bone flap?"
        )
    if counted > 100:
        notes.append(f"The bone falls into {counted} pieces: noise, or the threshold is too low?")
    return notes


def head_envelope(values: NDArray[Any], tissue: float, spacing_mm: Spacing) -> Mask | None:
    """Return the head with its air cells, in the voxels of the scan; None if all is shells.

    It is found on about 2 mm: skin lies between bone and its border everywhere.

    Args:
        values: The scan, shape ``(X, Y, Z)``.
        tissue: Above it lies the body.
        spacing_mm: Edge of a voxel along each axis.
    """
    steps = working_steps(spacing_mm)
    starts = [step // 2 if n > step else 0 for step, n in zip(steps, values.shape, strict=True)]
    body = np.asarray(
        values[starts[0] :: steps[0], starts[1] :: steps[1], starts[2] :: steps[2]] > tissue
    )
    spacing = [step * s for step, s in zip(steps, spacing_mm, strict=True)]
    core = solid_core(body, spacing)
    if not core.any():
        return None
    labels, count = ndimage.label(core)
    if count > 1:
        core = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    near = ndimage.distance_transform_edt(~core, sampling=spacing) <= _REACH_MM
    head = body & near
    labels, _ = ndimage.label(head)  # a table within reach goes unless it hangs on the head
    head = np.isin(labels, np.unique(labels[core]))
    for k in range(head.shape[2]):
        head[:, :, k] = ndimage.binary_fill_holes(head[:, :, k])
    # The sample of a voxel's block may be air where its skin is tissue.
    head = ndimage.binary_dilation(head)
    for axis, step in enumerate(steps):
        head = np.repeat(head, step, axis=axis)
        missing = values.shape[axis] - head.shape[axis]
        if missing > 0:
            head = np.pad(head, [(0, missing if a == axis else 0) for a in range(3)], mode="edge")
    whole: Mask = head[: values.shape[0], : values.shape[1], : values.shape[2]]
    return whole


def _without_neck(mask: Mask, spacing_mm: Spacing, height_mm: float) -> Mask:
    """Return the mask without what lies deeper than this below the top of the head."""
    rows = round(height_mm / spacing_mm[2])
    heights = np.flatnonzero(mask.any(axis=(0, 1)))
    if heights.size == 0 or heights[-1] - heights[0] <= rows:
        return mask
    box = bounding_box(mask)
    labels, count = ndimage.label(mask[box], structure=_FULL)
    sizes_ml = np.bincount(labels[mask[box]], minlength=count + 1) * np.prod(spacing_mm) / 1000
    tops = [piece[2].stop - 1 for piece in ndimage.find_objects(labels)]
    heads = [top for top, ml in zip(tops, sizes_ml[1:], strict=True) if ml >= _HEAD_PIECE_ML]
    lowest = box[2].start + max(heads or tops) - rows
    mask = mask.copy()
    mask[:, :, : max(lowest, 0)] = False
    return mask


def _largest(mask: Mask, voxel_ml: float) -> tuple[Mask, list[float]]:
    """Return the largest piece and the sizes of all in ml, falling."""
    if not mask.any():
        raise InputError("no bone in the head: is this a CT of a head? Try a lower threshold")
    box = bounding_box(mask)
    labels, count = ndimage.label(mask[box], structure=_FULL)
    sizes = np.bincount(labels[mask[box]], minlength=count + 1)
    largest = int(np.argmax(sizes))
    if sizes[largest] * voxel_ml < _SMALLEST_SKULL_ML:
        raise InputError(
            f"the largest piece of bone has {sizes[largest] * voxel_ml:.1f} ml, a skull more than "
            f"{_SMALLEST_SKULL_ML:g} ml: is this a head, and its spacing in mm? Try a lower "
            "threshold"
        )
    skull = np.zeros_like(mask)
    np.equal(labels, largest, out=skull[box])
    return skull, sorted((sizes[1:] * voxel_ml).tolist(), reverse=True)


def fill_holes(mask: Mask, spacing_mm: Spacing, settings: Settings) -> Mask:
    """Return the skull with its small cavities filled as the settings say."""
    if settings.holes == "keep":
        return mask
    reach = settings.close_mm if settings.holes == "close" else 0.0
    margin = [1 + int(np.ceil(reach / s)) for s in spacing_mm]
    box = bounding_box(mask)
    padded = np.pad(mask[box], [(m, m) for m in margin])
    if reach:
        padded = _closed(padded, spacing_mm, reach / 2)
    image = sitk.GetImageFromArray(padded.view(np.uint8))
    filling = sitk.BinaryFillholeImageFilter()
    filling.SetNumberOfThreads(1)
    cavities = sitk.GetArrayFromImage(filling.Execute(image)).astype(bool) & ~padded
    labels, count = ndimage.label(cavities)
    sizes = np.bincount(labels[cavities], minlength=count + 1)
    small = sizes * np.prod(spacing_mm) / 1000 <= _LARGEST_CAVITY_ML
    small[0] = False
    padded |= small[labels]
    filled = mask.copy()
    inner = tuple(slice(m, -m) for m in margin)
    filled[box] = padded[inner]
    return filled


def _closed(padded: Mask, spacing_mm: Spacing, radius_mm: float) -> Mask:
    """Return the closing by a ball: gaps narrower than its diameter are bridged."""
    grown = distance_mm(padded, spacing_mm) <= radius_mm
    return np.asarray(distance_mm(~grown, spacing_mm) > radius_mm) | padded


def distance_mm(mask: Mask, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
    """Return the distance of every voxel to a mask that is not empty, in mm.

    Within the mask it is 0 at its outermost voxels and negative farther inside.

    Args:
        mask: Any number of axes.
        spacing_mm: Edge of a voxel along each axis.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(mask).view(np.uint8))
    image.SetSpacing([float(s) for s in spacing_mm][::-1])  # the last axis is the image's first
    transform = sitk.SignedMaurerDistanceMapImageFilter()
    transform.SetNumberOfThreads(1)
    transform.SquaredDistanceOff()
    transform.UseImageSpacingOn()
    return np.asarray(sitk.GetArrayFromImage(transform.Execute(image)))


def bounding_box(mask: Mask) -> Box:
    """Return the slices of the smallest box that holds all of a mask which is not empty."""
    ends = []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        ends.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return ends[0], ends[1], ends[2]
