"""The minimum thickness of an implant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.reconstruction._chart import Array, Mask
from famseg.reconstruction._outline import Box, bounding_box


def thickened(
    implant: Mask, bone: Mask, affine: Array, origin: Array, least_mm: float
) -> tuple[Mask, list[str]]:
    """Return an implant that is nowhere thinner than requested, except at its rim.

    It grows inwards, so that its outer surface does not change. The added part lies within
    ``least_mm`` of the outer surface, on its inner side, and does not overlap bone.

    Args:
        implant: Mask, shape ``(X, Y, Z)``.
        bone: The skull, same shape.
        affine: Maps voxel indices to RAS+ mm.
        origin: A point inside the vault, which defines the inner side.
        least_mm: The minimum thickness.

    Returns:
        The implant and, if it grew, a sentence that states by how much.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if least_mm <= 0:
        return implant, []
    solid = implant | bone
    outer = implant.copy()
    outer[implant] = ~_beyond(solid, np.argwhere(implant), affine, origin)
    if not outer.any():
        return implant, []
    box = grown_box(outer, np.ceil(least_mm / edges).astype(int))
    away, nearest = ndimage.distance_transform_edt(~outer[box], sampling=edges, return_indices=True)
    voxel = float(np.prod(edges)) ** (1 / 3)
    near = (away <= least_mm - voxel / 2) & ~solid[box]
    corner = np.array([side.start for side in box])
    here = np.argwhere(near) + corner
    there = nearest[:, near].T + corner
    step = (here - there) @ affine[:3, :3].T
    place = there @ affine[:3, :3].T + affine[:3, 3] - origin
    # On the inner side, and mostly below the surface rather than to its side.
    inwards = -np.einsum("ij,ij->i", step, place) / np.linalg.norm(place, axis=1)
    kept = inwards > 0.7 * np.linalg.norm(step, axis=1)
    added = np.zeros_like(implant)
    added[tuple(here[kept].T)] = True
    if not added.any():
        return implant, []
    share = np.count_nonzero(added) / np.count_nonzero(implant)
    note = (
        f"thinner than {least_mm:g} mm in places: it was thickened on the inner side, by "
        f"{max(share, 0.01):.0%} of its volume{' or less' if share < 0.01 else ''}"
    )
    return implant | added, [note]


def _beyond(solid: Mask, places: NDArray[np.int64], affine: Array, origin: Array) -> Mask:
    """Return for voxels, ``(M, 3)``, whether the next one away from the origin is solid."""
    inverse = np.linalg.inv(affine)
    middle = inverse[:3, :3] @ origin + inverse[:3, 3]
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    offsets = (places - middle) * edges
    length = np.maximum(np.linalg.norm(offsets, axis=1), 1e-3)
    beyond = places + np.rint(1.2 * offsets / length[:, None]).astype(np.int64)
    within = ((beyond >= 0) & (beyond < solid.shape)).all(axis=1)
    found = np.zeros(len(places), dtype=bool)
    found[within] = solid[tuple(beyond[within].T)]
    return found


def grown_box(mask: Mask, steps: NDArray[np.int_]) -> Box:
    """Return the bounding box of a mask with a margin in voxels."""
    box = bounding_box(mask) or ()
    return tuple(
        slice(max(side.start - int(k), 0), min(side.stop + int(k), n))
        for side, k, n in zip(box, steps, mask.shape, strict=True)
    )
