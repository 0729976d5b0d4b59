"""Removal of table, head holder, neck and loose pieces from the bone of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- the name its users know it by
from numpy.typing import NDArray
from scipy import ndimage

from famseg.messages import InputError
from famseg.preparation._settings import Settings
from famseg.preparation._types import Finding
from famseg.preparation.steps._bone import Bone, Mask, distance_mm, within_mm
from famseg.preparation.steps._plates import (
    Body,
    Surroundings,
    enlarged,
    filled_slices,
    surroundings,
    without_hollows,
)
from famseg.preparation.steps._vertex import vault_top

_PIECE_ML = 0.1  # smaller pieces are noise and are not counted
_HEAD_PIECE_ML = 10.0  # the vertex belongs to a piece of at least this size
_SMALLEST_SKULL_ML = 20.0
_SECOND_HEAD = 0.5  # of the largest piece
_REACH_MM = 10.0  # distance from the solid core of the head that includes nose and ears
_TURN_MM = 60.0  # margin below the cut for a tilted head that is turned upright later
_LARGEST_CAVITY_ML = 20.0  # the cranial cavity has 1400 ml, a large frontal sinus 15
_ON_VAULT_MM = 3.0  # above the vertex, since the top of a vault is uneven

Spacing = tuple[float, float, float]
Box = tuple[slice, slice, slice]
Labels = NDArray[np.unsignedinteger[Any]]


class Cleaned(NamedTuple):
    """A cleaned skull in the voxels of its scan.

    Args:
        mask: Mask of the skull with the shape of the scan.
        removed_ml: Volume of the bone that was removed, by reason.
        components: Number of pieces of at least 0.1 ml before all but the largest were removed.
        notes: Warnings, one sentence each.
        findings: Findings about objects next to the head.
    """

    mask: Mask
    removed_ml: dict[str, float]
    components: int
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()


# Long because of its docstring, which describes the four steps in order.
def clean_bone(
    bone: Bone,
    values: NDArray[Any],
    spacing_mm: Spacing,
    settings: Settings,
    *,
    hounsfield: bool = False,
) -> Cleaned:
    """Reduce the bone of a scan to the skull.

    1. Table and head holder: bone outside the envelope of the head is removed. The envelope is the
       largest solid body of tissue, into which a ball of 6 mm fits, and everything connected to it
       within 10 mm. The shells of tables and holders are too thin for the ball, even where they
       touch the skin. Plates that extend from the body are removed together with their parts that
       touch it (`surroundings`). Masks and dry skulls have no tissue; there a table is a loose
       piece.
    2. Neck: bone far below the vertex is cut off roughly, so that a spine is not mistaken for the
       largest piece. The exact cut is made on the final grid. The vertex is the top of a closed
       vault (`vault_top`), and bone above it is removed, too.
    3. Loose pieces: all but the largest piece (26-connected) are removed.
    4. Cavities are filled according to `Settings.holes`.

    Args:
        bone: Bone of the scan; its mask is overwritten.
        values: The scan, shape ``(X, Y, Z)``, axes to the right, front and top.
        spacing_mm: Edge of a voxel along each axis.
        settings: Settings of the cut and of the filling.
        hounsfield: Whether values are in HU, so that metal can be identified.

    Returns:
        The skull in the voxels of the scan.

    Raises:
        InputError: If no piece is large enough to be a skull.
    """
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    total = np.count_nonzero(bone.mask)
    mask = bone.mask
    removed: dict[str, float] = {}
    body = Body.of(values, bone.scale.tissue, spacing_mm) if bone.scale else None
    envelope = head_envelope(body, values.shape) if body else None
    findings: list[Finding] = []
    if envelope is not None and body is not None:
        beside = surroundings(mask, values, body, hounsfield=hounsfield)
        mask &= envelope
        near = np.count_nonzero(mask)
        mask = beside.without_plates(mask) if beside else mask
        touching_ml = voxel_ml * (near - np.count_nonzero(mask))
        findings = _beside(beside, touching_ml) if beside else []
        removed["table and holder"] = voxel_ml * (total - np.count_nonzero(mask))
    beside_it = bool(findings)
    pieces = _Pieces.of(mask)
    if settings.crop == "vault":
        height_mm = settings.below_vertex_mm + _TURN_MM
        mask, above, below = _between(mask, pieces, spacing_mm, height_mm)
        if above or below:
            pieces = _Pieces.of(mask)
        removed["neck"] = voxel_ml * below
        if above * voxel_ml >= _PIECE_ML:
            removed["above the vault"] = voxel_ml * above
            text = (
                f"{above * voxel_ml:.1f} ml as dense as bone stood on the vault and were removed: "
                "is it a holder, a frame, or metal? Check the vertex."
            )
            findings.append(Finding("table", "look", text))
    mask, sizes_ml = _largest(mask, pieces, voxel_ml)
    removed["other pieces"] = float(sum(sizes_ml[1:]))
    mask = fill_holes(mask, spacing_mm, settings)
    counted = int(np.sum(np.array(sizes_ml) >= _PIECE_ML))
    if len(sizes_ml) > 1 and sizes_ml[1] > _SECOND_HEAD * sizes_ml[0] and not beside_it:
        text = f"A second piece of {sizes_ml[1]:.0f} ml is next to the skull: is it a second head?"
        findings.append(Finding("second_head", "look", text))
    notes = tuple(_piece_notes(sizes_ml, counted))
    return Cleaned(mask, removed, counted, notes, tuple(findings))


def _beside(beside: Surroundings, touching_ml: float) -> list[Finding]:
    """Return findings on objects next to the head."""
    findings = []
    if beside.second_ml > 0:
        text = (
            f"A second body of {beside.second_ml:.0f} ml is next to the head and was left out: is "
            "it a second head, or arms?"
        )
        findings.append(Finding("second_head", "look", text))
    if beside.metal:
        text = (
            "A frame or pins of metal extend outwards from the head: the part outside was removed. "
            "Check where pins enter the bone."
        )
        findings.append(Finding("frame", "look", text))
    elif touching_ml >= _PIECE_ML:
        text = (
            f"A table or holder touches the head: {touching_ml:.1f} ml of it were removed at the "
            "skin. Check whether some of it remains."
        )
        findings.append(Finding("table", "look", text))
    return findings


def _piece_notes(sizes_ml: list[float], counted: int) -> list[str]:
    notes = []
    if len(sizes_ml) > 1 and sizes_ml[1] > 0.03 * sizes_ml[0]:
        notes.append(
            f"A loose piece of {sizes_ml[1]:.0f} ml was removed from a skull of {sizes_ml[0]:.0f} "
            "ml: is it a jaw, a vertebra or a bone flap?"
        )
    if counted > 100:
        notes.append(
            f"The bone consists of {counted} pieces: is there noise, or is the threshold too low?"
        )
    return notes


def head_envelope(body: Body, shape: Sequence[int]) -> Mask | None:
    """Return the head with its air cells in the voxels of the scan; None if all tissue is shells.

    A resolution of about 2 mm suffices, since skin lies between bone and the border everywhere.

    Args:
        body: The body in the scan.
        shape: Shape of the scan.
    """
    core = body.core
    if not core.any():
        return None
    labels, count = ndimage.label(core)
    if count > 1:
        core = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    # Closing includes the front wall of a large frontal sinus, a shell with air behind it.
    closed = without_hollows(filled_slices(core), body.spacing_mm)
    head = body.tissue & within_mm(closed, body.spacing_mm, _REACH_MM)
    labels, _ = ndimage.label(head)  # removes a table unless it is connected to the head
    head = np.isin(labels, np.unique(labels[core]))
    head = filled_slices(head)
    # The sample of a block may be air although the skin in it is tissue.
    head = ndimage.binary_dilation(head)
    return enlarged(head, body.steps, shape)


class _Pieces(NamedTuple):
    """The connected components of bone (26-connected).

    Args:
        box: Bounding box of the bone.
        labels: Number of the piece of each voxel in the box, starting at 1; 0 for no bone.
        sizes: Number of voxels of each piece; the first entry counts voxels without bone.
    """

    box: Box
    labels: Labels
    sizes: NDArray[np.intp]

    @classmethod
    def of(cls, mask: Mask) -> _Pieces:
        """Find the connected components of a mask.

        Raises:
            InputError: If it is empty.
        """
        if not mask.any():
            raise InputError("no bone in the head: is this a CT of a head? Try a lower threshold")
        box = bounding_box(mask)
        turned = mask[box].T  # scans are stored slice by slice
        labels = _labeled(turned, corners=True)
        return cls(box, labels.T, np.bincount(labels[turned]))


def _labeled(mask: Mask, *, corners: bool) -> Labels:
    """Return the number of each connected component, from 1 in the order of their first voxels.

    By SimpleITK, in half the time of `scipy.ndimage.label`.

    Args:
        mask: Any mask.
        corners: Whether voxels are neighbors that share an edge or corner only.
    """
    labeling = sitk.ConnectedComponentImageFilter()
    labeling.SetFullyConnected(corners)
    labeling.SetNumberOfThreads(1)
    image = labeling.Execute(sitk.GetImageFromArray(mask.astype(np.uint8)))
    few = labeling.GetObjectCount() < 2**16
    # A copy: a view is invalid without its image.
    labels: Labels = sitk.GetArrayViewFromImage(image).astype(np.uint16 if few else np.uint32)
    return labels


def _between(
    mask: Mask, pieces: _Pieces, spacing_mm: Spacing, height_mm: float
) -> tuple[Mask, int, int]:
    """Return the mask without objects on the vault and without bone far below the vertex.

    Args:
        mask: Bone without the table.
        pieces: Its connected components.
        spacing_mm: Edge of a voxel along each axis.
        height_mm: Height below the vertex within which bone is kept.

    Returns:
        The mask, and the numbers of voxels that were removed above and below.
    """
    vertex = _vertex(pieces, spacing_mm)
    highest = vertex + 1 + round(_ON_VAULT_MM / spacing_mm[2])
    lowest = max(vertex - round(height_mm / spacing_mm[2]), 0)
    above, below = (int(np.count_nonzero(mask[:, :, s])) for s in np.s_[highest:, :lowest])
    if above or below:
        mask = mask.copy(order="K")
        mask[:, :, highest:] = False
        mask[:, :, :lowest] = False
    return mask, above, below


def _vertex(pieces: _Pieces, spacing_mm: Spacing) -> int:
    """Return the layer of the vertex: the top of a closed vault, else that of the large pieces."""
    sizes_ml = pieces.sizes * np.prod(spacing_mm) / 1000
    places = [place[::-1] for place in ndimage.find_objects(pieces.labels.T)]
    large = [i for i, ml in enumerate(sizes_ml[1:]) if ml >= _HEAD_PIECE_ML]
    tops = []
    for i in large:
        top = vault_top(pieces.labels[places[i]] == i + 1, spacing_mm)
        if top is not None:
            tops.append(places[i][2].start + top)
    if not tops:
        tops = [places[i][2].stop - 1 for i in large or range(len(places))]
    return int(pieces.box[2].start + max(tops))


def _largest(mask: Mask, pieces: _Pieces, voxel_ml: float) -> tuple[Mask, list[float]]:
    """Return the largest piece and the volumes of all pieces in ml, in descending order."""
    largest = int(np.argmax(pieces.sizes))
    if pieces.sizes[largest] * voxel_ml < _SMALLEST_SKULL_ML:
        raise InputError(
            f"the largest piece of bone has {pieces.sizes[largest] * voxel_ml:.1f} ml, a skull "
            f"more than {_SMALLEST_SKULL_ML:g} ml: is this a head, and is its spacing in mm? Try a "
            "lower threshold"
        )
    skull = np.zeros(mask.shape[::-1], dtype=bool).T  # without touching what stays 0
    np.equal(pieces.labels, largest, out=skull[pieces.box])
    return skull, sorted((pieces.sizes[1:] * voxel_ml).tolist(), reverse=True)


def fill_holes(mask: Mask, spacing_mm: Spacing, settings: Settings) -> Mask:
    """Fill small cavities of a skull according to the settings, in place, and return it."""
    if settings.holes == "keep":
        return mask
    reach = settings.close_mm if settings.holes == "close" else 0.0
    # Transposed: scans are stored slice by slice.
    edges, box = spacing_mm[::-1], bounding_box(mask)
    margin = [1 + int(np.ceil(reach / s)) for s in edges]
    padded = np.pad(np.ascontiguousarray(mask[box].T), [(m, m) for m in margin])
    if reach:
        padded = _closed(padded, edges, reach / 2)
    labels = _labeled(~padded, corners=False)
    # The first label is the outside, whose many voxels need not be counted.
    within = np.flatnonzero(labels > 1)
    cavity = labels.ravel()[within]
    small = np.bincount(cavity) * np.prod(spacing_mm) / 1000 <= _LARGEST_CAVITY_ML
    padded.ravel()[within[small[cavity]]] = True
    mask[box] = padded[tuple(slice(m, -m) for m in margin)].T
    return mask


def _closed(padded: Mask, spacing_mm: Sequence[float], radius_mm: float) -> Mask:
    """Return the morphological closing by a ball: gaps narrower than its diameter are bridged."""
    grown = distance_mm(padded, spacing_mm) <= radius_mm
    return np.asarray(distance_mm(~grown, spacing_mm) > radius_mm) | padded


def bounding_box(mask: Mask) -> Box:
    """Return the slices of the bounding box of a nonempty mask."""
    flat: NDArray[np.bool_] = np.any(mask, axis=2)
    ends = []
    for along in (flat.any(axis=1), flat.any(axis=0), mask.any(axis=(0, 1))):
        filled = np.flatnonzero(along)
        ends.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return ends[0], ends[1], ends[2]
