"""Extraction of the skull to be completed from a scan, and mapping back to its voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.messages import InputError
from famseg.preparation import Scan, Settings
from famseg.preparation.steps import (
    Bone,
    BoneField,
    Box,
    bone_field,
    bounding_box,
    clean_bone,
    cut_at_side,
    find_bone,
    implausible,
    spanned,
    to_ras,
    truncated_vault,
)
from famseg.volumes import Volume, copy_into

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

MARGIN_MM = 25.0
"""Margin around the skull, because an implant may extend beyond all remaining bone."""

# Hard limits for the size of a skull; those of `implausible` are narrower and only warn.
_BOX_MM, _VOLUME_ML = (70.0, 450.0), (60.0, 3000.0)
_LEAST_ROOM_MM, _LOOK_MM = 20.0, 3.0  # the upper or lower third of a head has 37 mm or more
_OPEN_CM2 = 10.0  # of the ring that a scan cuts from a vault lies inside: heads cut open show 100


@dataclass(frozen=True, eq=False)
class Skull:
    """The bone of a patient on a grid around the skull, axes to the right, front and top.

    Args:
        bone: All bone of the input on the grid: for a mask everything that is set, for a CT the
            skull.
        mask: Only the skull, with cavities filled and without loose pieces; shape of ``bone``.
        affine: Maps indices of both to mm of the world, which is the scan's.
        field: The surface of ``mask`` with subvoxel accuracy.
        box: Position of the grid in the scan, with axes to the right, front and top; it may extend
            beyond the scan.
        scan_bone: All bone of the input in the scan's own voxels and order of axes.
        scan_affine: Affine of the scan in its own order of axes.
        notes: Warnings, one sentence each.
    """

    bone: Mask
    mask: Mask
    affine: Floats
    field: BoneField
    box: Box
    scan_bone: Mask
    scan_affine: Floats
    notes: tuple[str, ...]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge of a voxel along each axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    def to_scan(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of the grid in the scan's own voxels, in its own order of axes.

        Args:
            values: Shape of ``bone``.

        Returns:
            Values in the shape of the scan; 0 outside the grid.
        """
        shape = self._turned_shape
        whole = np.zeros(shape, dtype=values.dtype, order="F")  # as volumes are read and written
        there, here = _shared(self.box, shape)
        copy_into(whole[there], values[here])
        return _turned_back(whole, self.scan_affine)

    def beyond_scan(self, mask: Mask) -> int:
        """Return how many voxels of a mask of the grid lie beyond the scan."""
        _, here = _shared(self.box, self._turned_shape)
        return int(np.count_nonzero(mask)) - int(np.count_nonzero(mask[here]))

    @property
    def _turned_shape(self) -> tuple[int, ...]:
        """The shape of the scan after `to_ras`."""
        turn = nibabel.orientations.io_orientation(self.scan_affine)
        shape = self.scan_bone.shape
        return tuple(shape[int(np.flatnonzero(turn[:, 0] == axis)[0])] for axis in range(3))


def read_skull(scan: Scan, settings: Settings) -> Skull:
    """Find the skull of a scan and check that it can be completed.

    The steps are those of ``famseg prepare``: bone is segmented by threshold or label; table, head
    holder, neck and loose pieces are removed, and cavities are filled. Nothing is resampled. The
    bone of a mask is kept complete: loose pieces are not used for the reconstruction, but an
    implant must not overlap them.

    Args:
        scan: The scan.
        settings: Thresholds, the label of the skull, and the cut.

    Returns:
        The skull. A CT of 512 x 512 x 250 voxels takes about 20 s and 1.5 GB.

    Raises:
        InputError: If there is no skull, or its vault is cut off by the border of the scan.
    """
    ras = to_ras(scan.volume)
    bone = find_bone(ras.array, scan.kind, ras.spacing_mm, settings, scan.segments)
    hounsfield = scan.kind == "hounsfield"
    cleaned = clean_bone(bone, ras.array, ras.spacing_mm, settings, hounsfield=hounsfield)
    beside = (finding.text for finding in cleaned.findings)
    size_note = _check_size(cleaned.mask, ras)
    values = ras.array if bone.scale else None
    cut_note = _check_whole(cleaned.mask, ras, bone)
    turned = bone.mask if scan.kind == "mask" else cleaned.mask
    box = _with_margin(bounding_box(cleaned.mask), ras.spacing_mm)
    inside = _cropped(cleaned.mask, box)
    affine = ras.affine.copy()
    affine[:3, 3] += ras.affine[:3, :3] @ [s.start for s in box]
    field = bone_field(cleaned.mask, ras.affine, values, bone.scale)
    notes = dict.fromkeys(
        (*scan.notes, *bone.notes, *cleaned.notes, *beside, *size_note, *cut_note)
    )
    return Skull(
        bone=_cropped(turned, box),
        mask=inside,
        affine=affine,
        field=field,
        box=box,
        scan_bone=_turned_back(turned, scan.volume.affine),
        scan_affine=scan.volume.affine,
        notes=tuple(notes),
    )


def _shared(
    box: Box, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice, slice], tuple[slice, slice, slice]]:
    """Return where a box that may reach beyond a volume shares it, in the volume and in the box."""
    x, y, z = (slice(max(s.start, 0), min(s.stop, n)) for s, n in zip(box, shape, strict=True))
    u, v, w = (
        slice(k.start - s.start, k.stop - s.start) for k, s in zip((x, y, z), box, strict=True)
    )
    return (x, y, z), (u, v, w)


def _turned_back(values: NDArray[Any], affine: Floats) -> NDArray[Any]:
    """Undo `to_ras`: return a view in the order of the scan's own axes."""
    back = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.io_orientation(affine)
    )
    return np.asarray(nibabel.orientations.apply_orientation(values, back))


def _check_size(mask: Mask, ras: Volume) -> list[str]:
    """Return notes on an unusual size of a skull; InputError if it cannot be a skull."""
    box = bounding_box(mask)
    edges = [(s.stop - s.start) * e for s, e in zip(box, ras.spacing_mm, strict=True)]
    volume_ml = float(np.count_nonzero(mask) * np.prod(ras.spacing_mm)) / 1000
    shown = " x ".join(f"{edge:.0f}" for edge in edges)
    low, high = _BOX_MM
    if min(edges) < low or max(edges) > high:
        raise InputError(
            f"the bone measures {shown} mm: a skull has {low:.0f} to {high:.0f} mm along each "
            "axis; is it a head, and is its spacing in mm?"
        )
    if not _VOLUME_ML[0] <= volume_ml <= _VOLUME_ML[1]:
        raise InputError(
            f"{volume_ml:.0f} ml of bone in {shown} mm: a skull has {_VOLUME_ML[0]:.0f} to "
            f"{_VOLUME_ML[1]:.0f} ml; is this noise, or a mask of the whole head?"
        )
    return implausible(volume_ml, (edges[0], edges[1], edges[2]))


def _check_whole(mask: Mask, ras: Volume, bone: Bone) -> list[str]:
    """Return a note if the border of the scan grazes the vault; InputError if it cuts it open.

    If a scan ends within the wall, the topmost layer is a cap of bone, and nothing is missing that
    an implant would have to replace. If it ends lower, the layer is a ring.
    """
    values = ras.array if bone.scale else None
    tissue = bone.scale.tissue if bone.scale else 0.0
    if not truncated_vault(mask, ras.spacing_mm, values, tissue):
        return []
    layer = mask[:, :, int(np.flatnonzero(mask.any(axis=(0, 1)))[-1])]
    if values is not None:
        body = values > tissue
        highest = body.shape[2] - 1 - np.argmax(body[:, :, ::-1], axis=2)
        ends = np.take_along_axis(mask, highest[:, :, None], axis=2)[:, :, 0]
        layer = ends & body.any(axis=2)
    open_cm2 = np.count_nonzero(spanned(layer) & ~layer) * np.prod(ras.spacing_mm[:2]) / 100
    if open_cm2 >= _OPEN_CM2 or cut_at_side(mask, ras.spacing_mm):
        if _room_mm(mask, ras.spacing_mm) < _LEAST_ROOM_MM:
            raise InputError(
                "no skull is recognizable: bone lies all over the scan, as in noise, and leaves no "
                "room for a brain; is this a CT of a head, and is the threshold right?"
            )
        raise InputError(
            "the vault is cut off by the border of the scan: bone that is missing there is not a "
            "defect; "
            "give a scan of the whole vault"
        )
    return ["The scan ends within the wall of the vault: its top is shaved."]


def _room_mm(mask: Mask, spacing_mm: tuple[float, float, float]) -> float:
    """Return the radius of the largest ball without bone in the box around a skull.

    It is looked for on voxels of 3 mm, which are bone if they contain any.
    """
    inside = mask[bounding_box(mask)]
    steps = [max(round(_LOOK_MM / edge), 1) for edge in spacing_mm]
    starts = (np.arange(0, n, k) for n, k in zip(inside.shape, steps, strict=True))
    for axis, start in enumerate(starts):
        inside = np.logical_or.reduceat(inside, start, axis=axis)
    if inside.all():
        return 0.0
    edges = [k * edge for k, edge in zip(steps, spacing_mm, strict=True)]
    return float(ndimage.distance_transform_edt(~inside, sampling=edges).max())


def _with_margin(box: Box, spacing_mm: tuple[float, float, float]) -> Box:
    steps = [int(np.ceil(MARGIN_MM / edge)) for edge in spacing_mm]
    x, y, z = (slice(s.start - n, s.stop + n) for s, n in zip(box, steps, strict=True))
    return x, y, z


def _cropped(mask: Mask, box: Box) -> Mask:
    """Return the part of a mask in a box that may extend beyond the mask."""
    out = np.zeros([s.stop - s.start for s in box], dtype=bool)
    there, here = _shared(box, mask.shape)
    copy_into(out[here], mask[there])
    return out
