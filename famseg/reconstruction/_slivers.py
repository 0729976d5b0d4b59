"""Removal of slivers from implants: films on intact bone and fillings of its pores."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from famseg.reconstruction._chart import Mask
from famseg.reconstruction._thicken import grown_box

_NEAR = 2  # largest thickness of a film in voxels
_BALL = ndimage.generate_binary_structure(3, 2)  # 19 voxels
_BESIDE = np.ones((3, 3, 3), dtype=bool)


def without_slivers(implant: Mask, skull: Mask) -> Mask:
    """Return an implant without films on bone and fillings of its pores.

    A sliver is thin (a ball of three voxels does not fit into it) and lies within two voxels of
    bone. Since this also applies to the rim of a thin implant, voxels within three voxels of the
    rest are kept.

    Args:
        implant: Mask, shape ``(X, Y, Z)``.
        skull: Mask of the same shape.
    """
    found = np.zeros_like(implant)
    if not implant.any():
        return found
    box = grown_box(implant, np.full(3, _NEAR + 1))
    own, bone = implant[box], skull[box].view(np.uint8)
    thin = own & ~ndimage.binary_opening(own, _BALL)
    near = ndimage.maximum_filter(bone, 2 * _NEAR + 1, mode="constant") > 0
    body = own & ~(thin & near)
    found[box] = ndimage.binary_dilation(body, _BESIDE, iterations=_NEAR + 1, mask=own)
    return found
