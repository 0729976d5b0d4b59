"""Placement of the defects of a fixed set on the grids of prepared skulls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.datasets.defects._fixed_sets import ROLES, TABLE_NAME, FixedCase, FixedSet
from famseg.datasets.skulls import PreparedSkull
from famseg.messages import InputError
from famseg.volumes import Volume, read_volume

Mask = NDArray[np.bool_]

_SAME_SPACING = 1e-3  # tolerance for equal axes, in voxels per voxel
_SAME_PLACE = 1e-2  # voxels
# If less of a resampled skull's bone coincides with bone of its source, it is another skull.
_OWN_BONE = 0.95


class PlacedHole(NamedTuple):
    """A defect on the grid of its skull.

    Args:
        skull: Index of the skull.
        name: Name of the case.
        bits: The removed region, packed by `numpy.packbits` because a whole set is kept in memory.
    """

    skull: int
    name: str
    bits: NDArray[np.uint8]

    def region(self, shape: tuple[int, ...]) -> Mask:
        """Return the region as a mask of the grid's shape."""
        count = int(np.prod(shape))
        return np.unpackbits(self.bits, count=count).reshape(shape).astype(bool)


def place(fixed: FixedSet, skulls: Sequence[PreparedSkull]) -> list[PlacedHole]:
    """Place the defects of the skulls on their grids.

    If the grid differs only by a shift of whole voxels, the defects are copied voxel by voxel, and
    the skull must be identical to that of the set. Otherwise the region is resampled by nearest
    neighbor.

    Args:
        fixed: The set.
        skulls: Skulls to evaluate on; each needs a defect in the set.

    Returns:
        The defects in the order of the skulls, those of one skull in the order of the set.

    Raises:
        InputError: One line for each skull without a defect, and for each defect that does not fit.
    """
    holes: list[PlacedHole] = []
    faults: list[str] = []
    names = dict(zip(fixed.cases, fixed.names(), strict=True))
    for index, skull in enumerate(skulls):
        cases = [case for case in fixed.cases if case.subject == skull.id]
        if not cases:
            faults.append(
                f"subject {skull.id}: {fixed.root / TABLE_NAME} has no defect for it: write a set "
                "with `famseg defects` from the same folder, or leave the subject out"
            )
        for case in cases:
            try:
                region = _region(fixed, case, skull)
            except InputError as error:
                faults += [f"subject {skull.id}: {fault}" for fault in error.faults]
                continue
            holes.append(PlacedHole(index, names[case], np.packbits(region)))
    if faults:
        raise InputError(*faults)
    return holes


def _region(fixed: FixedSet, case: FixedCase, skull: PreparedSkull) -> Mask:
    """Return the region that a defect removes, on the grid of the skull."""
    volumes = {role: read_volume(fixed.root / getattr(case, role)) for role in ROLES}
    complete, region = volumes["complete"], volumes["region"]
    for role, volume in volumes.items():
        if volume.array.shape != complete.array.shape or not np.allclose(
            volume.affine, complete.affine, atol=1e-3
        ):
            raise InputError(
                f"{volume.path}: its grid is not that of {case.complete}: write the set again"
            )
        if role in ("defective", "implant"):
            bone = (complete.array != 0) & ((region.array != 0) == (role == "implant"))
            if not np.array_equal(volume.array != 0, bone):
                raise InputError(
                    f"{volume.path}: is not {case.complete} {'in' if role == 'implant' else 'out'}"
                    f"side {case.region}: write the set again"
                )
    _check_skull(complete, skull, fixed.root / case.complete)
    placed = _onto_grid(region, skull)
    if not (placed & (skull.mask != 0)).any():
        raise InputError(
            f"{fixed.root / case.region}: removes no bone on the grid of the data: is "
            "data.spacing_mm too large, or does the set belong to other data?"
        )
    return placed


def _check_skull(complete: Volume, skull: PreparedSkull, path: object) -> None:
    """Refuse a skull that is not the one the defect was cut into."""
    moved = _onto_grid(complete, skull)
    bone = skull.mask != 0
    if _shift(complete, skull) is not None:
        same = np.array_equal(moved, bone)
    else:
        near = ndimage.binary_dilation(moved, structure=np.ones((3, 3, 3)))
        same = int(np.count_nonzero(bone & near)) >= _OWN_BONE * int(np.count_nonzero(bone))
    if not same:
        raise InputError(
            f"{path}: is not the skull of the data, or is at another position: set data.root to "
            "the skulls that the set was made from"
        )


def _shift(volume: Volume, skull: PreparedSkull) -> NDArray[np.int64] | None:
    """Return the voxel of a volume at the first voxel of the grid; None if the voxels differ."""
    step = np.linalg.solve(volume.affine, skull.affine)
    offset = np.rint(step[:3, 3])
    same = np.allclose(step[:3, :3], np.eye(3), atol=_SAME_SPACING)
    return (
        offset.astype(np.int64)
        if same and np.allclose(step[:3, 3], offset, atol=_SAME_PLACE)
        else None
    )


def _onto_grid(volume: Volume, skull: PreparedSkull) -> Mask:
    """Return a mask on the grid of the skull, padded with background."""
    step = np.linalg.solve(volume.affine, skull.affine)
    offset = _shift(volume, skull)
    return np.asarray(
        ndimage.affine_transform(
            (volume.array != 0).astype(np.uint8),
            np.eye(3) if offset is not None else step[:3, :3],
            offset if offset is not None else step[:3, 3],
            output_shape=skull.mask.shape,
            order=0,
        )
        != 0
    )
