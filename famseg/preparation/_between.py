"""Interpolation between voxels of a CT that keeps surfaces of bone in place.

Bone is found by a threshold far below the middle between soft tissue and solid bone. Values that
are interpolated linearly in HU pass it near the soft tissue, and bone grows by up to a third of
the gap on each side. Therefore values are interpolated on a scale on which soft tissue is -1, the
threshold 0 and solid bone 1: the surface then passes halfway, as it does in `bone_field`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Soft tissue, the preset threshold of bone, solid bone; beyond them the scale is nearly flat, so
# that neither air nor metal pulls the surface of the bone.
_HU = np.array([-32768.0, 40.0, 226.0, 1000.0, 32767.0])
_FLAT = 1e-4  # per HU
_LEVEL = np.array([-1 - _FLAT * (40 + 32768), -1.0, 0.0, 1.0, 1 + _FLAT * (32767 - 1000)])


def to_level(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return HU on the scale on which they may be interpolated linearly.

    Example:
        >>> to_level(np.array([40, 226, 1000])).tolist()
        [-1.0, 0.0, 1.0]
    """
    return np.asarray(np.interp(values, _HU, _LEVEL), dtype=np.float32)


def from_level(levels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the HU of levels from `to_level`.

    Example:
        >>> halfway = (to_level(np.array([40.0])) + to_level(np.array([1000.0]))) / 2
        >>> from_level(halfway).tolist()
        [226.0]
    """
    return np.asarray(np.interp(levels, _LEVEL, _HU), dtype=np.float32)
