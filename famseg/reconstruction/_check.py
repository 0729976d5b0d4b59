"""Checks of a skull, its affine, its pose and the other volumes on its grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from famseg.messages import InputError
from famseg.preparation.steps import BoneField, dome_rays, first_bone, moved_points
from famseg.reconstruction._frame import Vault, fit_vault

_TALLEST_MM = 105.0  # largest half height of a vault: 60 to 85 in heads, 115 or more upside down
_FLOOR_DEG = (-50.0, -20.0)  # below the horizontal: orbits in front, the posterior fossa behind
_FRONT_DEG = 60.0
_FARTHEST_MM = 130.0
_REVERSED_MM = 6.0  # in heads, the floor is 10 to 33 mm farther away at the back than at the front

Floats = NDArray[np.float64]


def check_volumes(
    skull: NDArray[np.bool_], affine: NDArray[np.float64], **others: NDArray[np.generic]
) -> None:
    """Raise an `InputError` for arrays from which no implant can be designed.

    Args:
        skull: A mask.
        affine: Maps its voxel indices to RAS+ mm.
        **others: Arrays on the same grid by name: masks, or values that must be finite.
    """
    if skull.ndim != 3 or skull.dtype != bool:
        raise InputError(f"skull must be a 3D bool mask, got {skull.shape} {skull.dtype}")
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputError("affine must be a 4 x 4 matrix of finite numbers")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError("affine is singular: two axes of the grid have the same direction")
    for name, array in others.items():
        if array.shape != skull.shape:
            raise InputError(f"{name} has the shape {array.shape}, the skull {skull.shape}")
        if array.dtype != bool and not np.isfinite(array).all():
            raise InputError(f"{name} contains values that are not numbers")
    if not skull.any():
        raise InputError("the mask is empty, there is no skull to reconstruct")


def check_upright(vault: Vault, field: BoneField) -> None:
    """Raise an `InputError` if a head is upside down.

    The vault is a closed dome, whereas the base is not. If the dome is closed only when the head is
    flipped, the head is upside down. Takes about 0.2 s if the head looks suspicious, else no time.

    Args:
        vault: From `famseg.reconstruction._frame.fit_vault`.
        field: The field it was fitted to.
    """
    if vault.half_axes_mm[2] > _TALLEST_MM and _is_dome(field, np.diag([1.0, -1.0, -1.0, 1.0])):
        raise InputError(
            "the head is upside down by the orientation in the header: its vault is below; correct "
            "the orientation, for example with the transforms of 3D Slicer"
        )


def back_to_front(vault: Vault, bone: NDArray[np.bool_], affine: Floats) -> list[str]:
    """Return a warning if the front and back of a head seem to be swapped, else nothing.

    The floor of the cranial cavity is high at the front, above the orbits, and low at the back. If
    it is the other way round on both sides of the head, the orientation is doubtful. Swapped left
    and right cannot be detected.

    Args:
        vault: From `famseg.reconstruction._frame.fit_vault`.
        bone: The skull on voxels of a few mm, axes to the right, front and top.
        affine: Maps its indices to mm of the world.
    """
    if _behind_mm(vault, bone, affine) >= -_REVERSED_MM:
        return []
    return [
        "The head seems to be BACK TO FRONT by the orientation in the header: the floor of the "
        "cranial cavity is deeper in front than behind. If so, left and right are exchanged, too, "
        "and the implant is wrong: check the orientation."
    ]


def _is_dome(field: BoneField, turn: Floats) -> bool:
    """Return whether a vault is found in a rotated field."""
    try:
        found = fit_vault(BoneField(field.values, turn @ field.affine))
    except InputError:
        return False
    return bool(found.half_axes_mm[2] <= _TALLEST_MM)


def _behind_mm(vault: Vault, bone: NDArray[np.bool_], affine: Floats) -> float:
    """Return how much farther the floor is at the back than at the front, on the clearer side."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    to_index: Floats = np.asarray(np.linalg.inv(affine), dtype=np.float64)
    middle = moved_points(vault.middle_mm[None], to_index)[0]
    rays = dome_rays(_FLOOR_DEG[0])
    rays = rays[rays[:, 2] < np.sin(np.radians(_FLOOR_DEG[1]))]
    away = first_bone(bone.view(np.uint8), middle, rays, edges)
    away = np.where(np.isfinite(away), away, _FARTHEST_MM)
    turn = np.degrees(np.arctan2(np.abs(rays[:, 0]), rays[:, 1]))
    front, back = turn < _FRONT_DEG, turn > 180 - _FRONT_DEG
    return max(
        float(np.median(away[back & side]) - np.median(away[front & side]))
        for side in (rays[:, 0] < 0, rays[:, 0] > 0)
    )
