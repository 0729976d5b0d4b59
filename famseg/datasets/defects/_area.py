"""The area of a defect on the outer surface of the complete skull."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from famseg.datasets.defects._vault import WHOLE_SPHERE, make_chart, vault_middle
from famseg.messages import InputError


def opening_area_cm2(
    skull: NDArray[np.uint8], region: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> float:
    """Return the area that a defect removes from the outer surface of the vault.

    The surface is a height field from the center of the vault: the distance of the outermost bone
    of the wall as a function of direction, smoothed over 5 mm to remove the steps of voxels. Bone
    outside the wall of the vault (base, face) has no area.

    Args:
        skull: The complete skull, a mask of 0 and 1, shape ``(X, Y, Z)``, axes to the right, front
            and top.
        region: The removed region, including voxels without bone, same shape.
        spacing_mm: Edge of a voxel along each axis in mm.

    Returns:
        The area in cm2; 0 where the region contains no bone.

    Raises:
        InputError: If the skull is empty or the shapes differ.

    Example:
        >>> from famseg.datasets import RegionDefect, inject, phantom
        >>> skull = phantom(subject=0, seed=0)
        >>> defect = RegionDefect("parietotemporal", area_cm2=(60, 60))
        >>> _, region = inject(skull, defect, (3.5,) * 3, np.random.default_rng(0))
        >>> abs(opening_area_cm2(skull, region, (3.5,) * 3) - 60) < 3
        True
    """
    if skull.shape != region.shape:
        raise InputError(
            f"opening_area_cm2: the skull has the shape {skull.shape}, the region {region.shape}"
        )
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    middle = vault_middle(skull)
    removed = np.argwhere(region & (skull != 0))
    if not len(removed):
        return 0.0
    places = (removed - middle) * spacing
    places /= np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-9)
    ahead = places.mean(axis=0)
    length = float(np.linalg.norm(ahead))
    ahead = ahead / length if length > 0.1 else np.array([0.0, 0.0, 1.0])
    angle = float(np.arccos(np.clip((places @ ahead).min(), -1, 1)))
    width = min(2 * np.sin(min(angle + 0.2, np.pi) / 2), WHOLE_SPHERE)
    chart = make_chart(skull, spacing, middle, ahead, width)
    rays = chart.frame.directions(chart.x[chart.wall], chart.y[chart.wall])
    # The outermost bone voxels are half a voxel below the surface.
    depth = chart.outer_mm[chart.wall] - float(spacing.min()) / 2
    index = np.rint(rays * depth[:, None] / spacing + middle).astype(np.intp)
    i, j, k = np.clip(index, 0, np.array(skull.shape) - 1).T
    return float(chart.area_cm2[chart.wall][region[i, j, k]].sum())
