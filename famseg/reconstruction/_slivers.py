"""What a predicted implant has that none should have: slivers in and on sound bone."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from famseg.reconstruction._chart import Array, Mask

_BALL_MM = 3.0
_BALL_VOXELS = 1.5
_LEAST_SHARE = 0.3


def without_slivers(implant: Mask, skull: Mask, affine: Array) -> Mask:
    """Return an implant without its films on bone and fillings of bone.

    A voxel stays if, of what is solid around it, at least three tenths are implant: at the flat
    edge of a defect it is half, on the outer or inner surface of sound bone, in its marrow or in a
    narrow sinus it is less. The weight of what is around falls off as a Gaussian with a standard
    deviation of 1.5 mm, or of a voxel and a half where that is more.

    Args:
        implant: Mask, shape ``(X, Y, Z)``.
        skull: Mask of the same shape.
        affine: Maps voxel indices to RAS+ mm.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    sigma = np.maximum(_BALL_MM / 2, _BALL_VOXELS * edges) / edges

    def around(mask: Mask) -> Array:
        return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=2.5))

    own, bone = around(implant), around(skull)
    return implant & (own >= _LEAST_SHARE * (own + bone))
