"""Interpolation between the voxels of a CT that does not move the surface of the bone.

The threshold of bone lies far below the midpoint between soft tissue and solid bone. Values
interpolated linearly in HU cross it near the soft tissue, and the bone grows by up to a third of
the gap on each side. Values are therefore interpolated on a scale on which soft tissue is -1, the
threshold 0 and solid bone 1. On this scale the surface passes halfway between the two, as it does
in `bone_field`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Soft tissue, the default threshold of bone, and solid bone. Outside this range the scale is nearly
# flat, so that neither air nor metal shifts the surface of the bone.
_HU = np.array([-32768.0, 40.0, 226.0, 1000.0, 32767.0])
_FLAT = 1e-4  # per HU
_LEVEL = np.array([-1 - _FLAT * (40 + 32768), -1.0, 0.0, 1.0, 1 + _FLAT * (32767 - 1000)])


def to_level(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return HU values on the scale on which they may be interpolated linearly.

    Example:
        >>> to_level(np.array([40, 226, 1000])).tolist()
        [-1.0, 0.0, 1.0]
    """
    return np.asarray(np.interp(values, _HU, _LEVEL), dtype=np.float32)


def from_level(levels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the HU values of levels computed by `to_level`.

    Example:
        >>> halfway = (to_level(np.array([40.0])) + to_level(np.array([1000.0]))) / 2
        >>> from_level(halfway).tolist()
        [226.0]
    """
    return np.asarray(np.interp(levels, _LEVEL, _HU), dtype=np.float32)
