"""Removal of slivers from implants: films on intact bone and fillings of its pores."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from famseg.reconstruction._chart import Mask

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
    thin = implant & ~ndimage.binary_opening(implant, _BALL)
    near = ndimage.binary_dilation(skull, _BESIDE, iterations=_NEAR)
    body = implant & ~(thin & near)
    return np.asarray(ndimage.binary_dilation(body, _BESIDE, iterations=_NEAR + 1, mask=implant))
