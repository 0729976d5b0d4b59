"""What is asked of a skull, its affine and what lies on the same grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from famseg.config import InputError


def check_volumes(
    skull: NDArray[np.bool_], affine: NDArray[np.float64], **others: NDArray[np.generic]
) -> None:
    """Raise an `InputError` for arrays that no implant can be made from.

    Args:
        skull: A mask.
        affine: Maps its voxel indices to RAS+ mm.
        **others: Arrays on the same grid by name; masks, or numbers that must be finite.
    """
    if skull.ndim != 3 or skull.dtype != bool:
        raise InputError(f"skull must be a 3D bool mask, got {skull.shape} {skull.dtype}")
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputError("affine must be a 4 x 4 matrix of finite numbers")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError("affine is singular: two axes of the grid point the same way")
    for name, array in others.items():
        if array.shape != skull.shape:
            raise InputError(f"{name} has the shape {array.shape}, the skull {skull.shape}")
        if array.dtype != bool and not np.isfinite(array).all():
            raise InputError(f"{name} holds values that are not numbers")
    if not skull.any():
        raise InputError("the mask is empty, there is no skull to reconstruct")
