"""A least thickness for an implant."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from famseg.reconstruction._chart import Array, Mask


def thickened(
    implant: Mask, bone: Mask, affine: Array, origin: Array, least_mm: float
) -> tuple[Mask, list[str]]:
    """Return an implant that is nowhere thinner than asked for, but for its rim.

    It grows inwards: its outer surface is left alone. What grows is what lies within ``least_mm``
    of the outer surface on the inner side of it; bone is in the way.

    Args:
        implant: Mask, shape ``(X, Y, Z)``.
        bone: The skull, same shape.
        affine: Maps voxel indices to RAS+ mm.
        origin: A point inside the vault: what is nearer to it is further in.
        least_mm: The thickness.

    Returns:
        The implant and, if it grew, a sentence that says by how much.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if least_mm <= 0:
        return implant, []
    toward = _toward(implant.shape, affine, origin)
    outer = implant & ~_shifted(implant | bone, toward)
    if not outer.any():
        return implant, []
    away, nearest = ndimage.distance_transform_edt(~outer, sampling=edges, return_indices=True)
    voxel = float(np.prod(edges)) ** (1 / 3)
    near = (away <= least_mm - voxel / 2) & ~bone & ~implant
    here = np.argwhere(near)
    there = nearest[:, near].T
    step = (here - there) @ affine[:3, :3].T
    place = there @ affine[:3, :3].T + affine[:3, 3] - origin
    # On the inner side, and mostly below the surface rather than beside it.
    inwards = -np.einsum("ij,ij->i", step, place) / np.linalg.norm(place, axis=1)
    kept = inwards > 0.7 * np.linalg.norm(step, axis=1)
    added = np.zeros_like(implant)
    added[tuple(here[kept].T)] = True
    if not added.any():
        return implant, []
    share = np.count_nonzero(added) / np.count_nonzero(implant)
    note = (
        f"thinner than {least_mm:g} mm in places: it was thickened on the inner side, by "
        f"{share:.0%} of its volume"
    )
    return implant | added, [note]


def _toward(shape: tuple[int, ...], affine: Array, origin: Array) -> Array:
    """Return unit steps in voxels away from the origin, one for each voxel, ``(3, X, Y, Z)``."""
    inverse = np.linalg.inv(affine)
    middle = inverse[:3, :3] @ origin + inverse[:3, 3]
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    offsets = [
        ((np.arange(n) - m) * e).reshape([-1 if k == axis else 1 for k in range(3)])
        for axis, (n, m, e) in enumerate(zip(shape, middle, edges, strict=True))
    ]
    length = np.sqrt(sum(o.astype(np.float32) ** 2 for o in offsets))
    return np.stack([np.broadcast_to(o, shape) / np.maximum(length, 1e-3) for o in offsets])


def _shifted(solid: Mask, toward: Array) -> Mask:
    """Return for each voxel whether the next one away from the origin is solid."""
    places = np.indices(solid.shape) + np.rint(toward * 1.2)
    return np.asarray(ndimage.map_coordinates(solid.view(np.uint8), places, order=0, cval=0) > 0)
