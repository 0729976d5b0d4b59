"""Findings about a prepared skull, by kind and severity."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from famseg.datasets.defects import vault_middle
from famseg.preparation._types import Finding
from famseg.preparation.steps._bone import Mask, Scale
from famseg.preparation.steps._checks import along_rays, dome_rays, first_bone, implausible
from famseg.preparation.steps._clean import Spacing, bounding_box

_METAL_BONE_HU = 3000.0
_METAL_ML = 0.05
_INNER_ML = 1.5
_INNER_LOWEST_DEG = 10.0  # petrous bone and the ridges of the skull base lie below
_INNER_MM = 20.0  # from the inner table, which includes the back wall of a frontal sinus
_GAP_MM = 4.0  # a gap this wide ends the wall of the vault
_OPEN_SHARE = 0.5  # not a skull if a larger share of the rays upwards and sideways meets no bone


def size_findings(
    skull: NDArray[np.uint8],
    spacing_mm: Spacing,
    volume_ml: float,
    box_mm: tuple[float, float, float],
    *,
    truncated: bool,
) -> list[Finding]:
    """Return findings about an implausible size or shape, which excludes a skull from training.

    Args:
        skull: Mask of 0 and 1 on the final grid.
        spacing_mm: Edge of a voxel along each axis.
        volume_ml: Volume of the bone.
        box_mm: Extent of its bounding box to the right, front and top.
        truncated: Whether the vault is truncated by the scan.
    """
    texts = implausible(volume_ml, box_mm)
    rays = dome_rays(_INNER_LOWEST_DEG)[::4]
    met = np.isfinite(first_bone(skull, vault_middle(skull), rays, np.asarray(spacing_mm)))
    if not truncated and met.mean() < 1 - _OPEN_SHARE:
        texts.append(
            f"There seems to be no vault: {100 * (1 - met.mean()):.0f} % of the rays from its "
            "middle to the sides and the top meet no bone."
        )
    return [Finding("implausible", "unusable", text) for text in texts]


def vessel_findings(
    skull: NDArray[np.uint8], spacing_mm: Spacing, *, truncated: bool
) -> list[Finding]:
    """Return a finding if bone-like voxels lie in the cranial cavity.

    On a ray from the center of the vault, the wall is the outermost bone, up to a gap of 4 mm.
    Voxels that lie at least 20 mm inside the wall are contrast agent in vessels, or calcifications.

    Args:
        skull: Mask of 0 and 1 on the final grid, axes to the right, front and top.
        spacing_mm: Edge of a voxel along each axis.
        truncated: Whether the vault is truncated; rays then start so low that they meet the skull
            base, and no finding is returned.
    """
    inner_ml = 0.0 if truncated else inner_bone_ml(skull, spacing_mm)
    if inner_ml < _INNER_ML:
        return []
    text = (
        f"{inner_ml:.1f} ml of bone-like voxels are inside the cranial cavity, away from its wall: "
        "are they vessels with contrast agent, calcifications or metal streaks? Try a higher "
        "threshold."
    )
    return [Finding("vessels", "look", text)]


def inner_bone_ml(skull: NDArray[np.uint8], spacing_mm: Spacing) -> float:
    """Return the volume of bone in the cranial cavity, above the skull base, away from the wall."""
    spacing = np.asarray(spacing_mm)
    rays, middle = dome_rays(_INNER_LOWEST_DEG)[::2], vault_middle(skull)
    step = float(spacing.min()) / 2
    gap = max(1, round(_GAP_MM / step))
    solid_angle = 2 * np.pi * (1 - np.sin(np.deg2rad(_INNER_LOWEST_DEG))) / len(rays)
    total = 0.0
    for _, distances, bone in along_rays(skull, middle, rays, spacing, step):
        ray, at = np.nonzero(bone)
        begins = np.diff(ray, prepend=-1) > 0
        # The wall on a ray begins where its last section of bone begins.
        begins[1:] |= np.diff(at) > gap
        wall = np.zeros(len(bone), dtype=np.intp)
        wall[ray[begins]] = at[begins]  # later values overwrite earlier ones
        inner = distances[at[at < wall[ray] - _INNER_MM / step]]
        total += float((inner**2).sum()) * solid_angle * step
    return total / 1000


def metal_findings(
    values: NDArray[Any], skull: Mask, scale: Scale | None, spacing_mm: Spacing, *, hounsfield: bool
) -> list[Finding]:
    """Return a finding if metal lies in or at the bone of a CT in HU.

    Args:
        values: The scan, axes to the right, front and top.
        skull: The cleaned skull in the voxels of the scan.
        scale: Reference values of the scan.
        spacing_mm: Edge of a voxel along each axis.
        hounsfield: Whether values are in HU; otherwise metal cannot be identified.
    """
    if scale is None or not hounsfield or float(values.max()) <= _METAL_BONE_HU:
        return []
    box = bounding_box(skull)
    metal = (values[box] > _METAL_BONE_HU) & skull[box]
    ml = np.count_nonzero(metal) * float(np.prod(spacing_mm)) / 1000
    if ml < _METAL_ML:
        return []
    heights = np.flatnonzero(metal.any(axis=(0, 1)))
    low, high = (round((metal.shape[2] - 1 - heights[end]) * spacing_mm[2], -1) for end in (-1, 0))
    text = (
        f"{ml:.1f} ml above {_METAL_BONE_HU:.0f} HU, {low:.0f} to {high:.0f} mm below the vertex: "
        "metal (plates, clips, pins, teeth), whose streaks change the bone around it."
    )
    return [Finding("metal", "look", text)]
