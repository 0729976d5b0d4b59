"""The outline of a defect: its pieces and its edge at the resolution of the bone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from famseg.messages import InputError
from famseg.reconstruction._chart import Array, Mask, Wall
from famseg.reconstruction._surfaces import Surfaces

Box = tuple[slice, ...]
"""A part of a volume, as one slice per axis."""

_CONNECTED = np.ones((3, 3, 3), dtype=bool)
_SMALLEST_ML = 0.1
_SMALLEST_SHARE = 0.05
_OPEN = 0.5  # a ray through less of the wall than this passes through the defect
_FACES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


class Piece(NamedTuple):
    """One connected part of a defect.

    Args:
        box: Its bounding box in the volume.
        mask: The part within its box.
        volume_ml: Its volume.
    """

    box: Box
    mask: Mask
    volume_ml: float

    def placed(self, shape: tuple[int, ...]) -> Mask:
        """Return the part as a mask of the whole volume."""
        whole = np.zeros(shape, dtype=bool)
        whole[self.box] = self.mask
        return whole


def pieces_of(region: Mask, affine: Array) -> tuple[list[Piece], list[Piece]]:
    """Return the parts of a region that are large enough to reconstruct, and the others.

    A part is large enough if it has 0.1 ml and a twentieth of the largest part's volume. Parts are
    26-connected. Both lists are sorted by decreasing size.
    """
    box = bounding_box(region)
    if box is None:
        return [], []
    labels, _ = ndimage.label(region[box], structure=_CONNECTED)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    found = []
    for number, own in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[own] == number
        place = tuple(
            slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, own, strict=True)
        )
        found.append(Piece(place, mask, int(np.count_nonzero(mask)) * voxel_ml))
    found.sort(key=lambda piece: -piece.volume_ml)
    least = max(_SMALLEST_ML, _SMALLEST_SHARE * found[0].volume_ml)
    return (
        [piece for piece in found if piece.volume_ml >= least],
        [piece for piece in found if piece.volume_ml < least],
    )


def bounding_box(mask: Mask) -> Box | None:
    """Return the bounding box of a mask; None if it is empty."""
    box = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
        if not hits.size:
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)


def share_there(wall: Wall, surfaces: Surfaces) -> Array:
    """Return the share of the wall between two surfaces that a measured wall fills, 0 to 1."""
    overlap = np.minimum(wall.outer_mm, surfaces.outer_mm) - np.maximum(
        wall.inner_mm, surfaces.inner_mm
    )
    share = overlap / (surfaces.outer_mm - surfaces.inner_mm)
    return np.clip(np.nan_to_num(share, nan=0.0), 0, 1)


def opened(share: Array, among: Mask, core: Mask) -> Mask:
    """Return the pixels with a missing wall that are connected to a core.

    Args:
        share: Share of the wall that is present.
        among: Pixels that may belong to the defect.
        core: Pixels that are known to be close to the defect.
    """
    missing = among & (share < _OPEN)
    labels, count = ndimage.label(missing, structure=np.ones((3, 3)))
    near = np.zeros(count + 1, dtype=bool)
    near[np.unique(labels[missing & core])] = True
    near[0] = False
    return np.asarray(near[labels])


def check_border(points: Array, affine: Array, shape: tuple[int, ...], most: float) -> None:
    """Refuse a defect that is cut off by the border of the scan.

    Args:
        points: Points in the middle of the wall in RAS+ mm, shape ``(M, 3)``.
        affine: Maps voxel indices to RAS+ mm.
        shape: Shape of the volume.
        most: Largest share of the points outside on any side.

    Raises:
        InputError: If more points lie outside.
    """
    if not len(points):
        return
    inverse = np.linalg.inv(affine)
    index = points @ inverse[:3, :3].T + inverse[:3, 3]
    for axis in range(3):
        side = int(np.abs(affine[:3, axis]).argmax())
        rising = bool(affine[side, axis] > 0)
        for end, beyond in enumerate((index[:, axis] < -0.5, index[:, axis] > shape[axis] - 0.5)):
            share = float(beyond.mean())
            if share > most:
                face = _FACES[side][end if rising else 1 - end]
                raise InputError(
                    f"the defect reaches the {face} border of the scan, which cuts off {share:.0%} "
                    "of the wall there: give a scan that shows bone all around the defect"
                )
