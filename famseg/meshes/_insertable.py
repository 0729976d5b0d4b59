"""Removal of the part of an implant that bone blocks during insertion along a line."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from famseg.meshes._mesh import Mesh
from famseg.meshes._read import voxelize
from famseg.meshes._solid import largest_pieces, subtract
from famseg.meshes._surface import surface_mesh
from famseg.meshes._undercut import bone_around, first_bone_mm, layer, unit

_SPACING_MM = 0.5
_SMOOTHING_MM = 0.5
_CLEAR_VOXELS = 1
_AROUND_VOXELS = 4
_SLIVER = 0.01

Floats = NDArray[np.float64]


def without_undercut(implant: Mesh, bone: Mesh, direction: ArrayLike) -> Mesh:
    """Return an implant without the parts that bone blocks during insertion along a line.

    Bone casts a shadow along the line. The implant is cut off in the shadow and half a millimeter
    around it.

    Args:
        implant: The implant in its final place, a closed mesh.
        bone: A closed mesh.
        direction: The way it moves, towards its place; of any length above 0.

    Returns:
        The remaining implant; the implant itself if nothing is blocked. See :func:`undercut` for
        the volume that is still blocked.

    Raises:
        ValueError: If a mesh is open or empty, the direction is 0, or nothing is left.
    """
    near = bone_around(implant, bone)
    if len(near.faces) == 0:
        return implant
    affine, shape = layer(implant, unit(direction), _SPACING_MM)
    start = first_bone_mm(near, affine, shape).reshape(shape)
    inverse = np.linalg.inv(affine)
    here = implant.used_vertices @ inverse[:3, :3].T + inverse[:3, 3]
    low, high = here[:, 2].min(), here[:, 2].max()
    place = affine @ np.diag([1, 1, _SPACING_MM, 1])
    place[:3, 3] += affine[:3, 2] * (low - 2 * _SPACING_MM)
    heights = low + _SPACING_MM * np.arange(-2, int(np.ceil((high - low) / _SPACING_MM)) + 3)
    shadow = heights > start[:, :, None]
    blocked = shadow & voxelize(implant, shadow.shape, place)
    if not blocked.any():
        return implant
    # The rest of the shadow does not touch the implant, and a smaller solid is faster.
    near = ndimage.maximum_filter(blocked.view(np.uint8), 2 * _AROUND_VOXELS + 1) > 0
    shadow = near & ndimage.binary_dilation(shadow, iterations=_CLEAR_VOXELS)
    rest = subtract(implant, surface_mesh(shadow, place, smoothing_mm=_SMOOTHING_MM))
    if len(rest.faces) == 0:
        raise ValueError("bone is in the way of all of the implant")
    return largest_pieces(rest, min_share=_SLIVER)
