"""Metal artifacts: bright and dark streaks across the soft tissue in slices with metal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.preparation._types import Finding
from famseg.preparation.steps._bone import Mask, Scale, working_steps
from famseg.preparation.steps._checks import spanned
from famseg.preparation.steps._clean import Spacing
from famseg.preparation.steps._plates import any_of_blocks, sampled

_METAL_STREAK_HU = 2500.0  # dense bone and enamel stay below, thin clips blur to little more
_METAL_ML = 0.02  # in a slice's thickness around it
_BAND_HU = (-150.0, 200.0)  # brain, fluid, blood and fat lie within, noise of a head CT, too
_WALL_MM = 4.0  # from bone, whose edges blur
_STREAKED_SHARE = 0.03  # of the cavity
_BEYOND = 3.0  # times the share of the slices without metal
_LEAST_MM = 4.0  # of the height of the scan
_NEAR_MM = 4.0  # along the axis of the scan: slices next to metal


def streak_findings(
    values: NDArray[Any], skull: Mask, scale: Scale | None, spacing_mm: Spacing, *, hounsfield: bool
) -> list[Finding]:
    """Return a finding if metal causes streaks within the skull.

    In slices that contain metal above 2500 HU (clips, pins, frames, plates, fillings), the region
    enclosed by bone is examined at a distance of 4 mm from bone. A slice has streaks if more than 3
    % of the values are neither brain nor fluid, blood or fat (-150 to 200 HU), and more than three
    times as many as in slices without metal. Slices with streaks over a height of 4 mm are a
    finding. Streaks brighter than the threshold are segmented as bone, and dark ones remove bone.

    Args:
        values: The scan, axes to the right, front and top.
        skull: The cleaned skull in the voxels of the scan.
        scale: Reference values of the scan.
        spacing_mm: Edge of a voxel along each axis.
        hounsfield: Whether values are in HU.
    """
    if scale is None or not hounsfield or float(values.max()) <= _METAL_STREAK_HU:
        return []
    metal_ml = np.array(
        [np.count_nonzero(values[:, :, k] > _METAL_STREAK_HU) for k in range(values.shape[2])]
    ) * (float(np.prod(spacing_mm)) / 1000)
    reach = max(1, round(_NEAR_MM / spacing_mm[2]))
    near = ndimage.maximum_filter1d(metal_ml, 2 * reach + 1, mode="constant") >= _METAL_ML
    if not near.any():
        return []
    share = _shares(values, skull, spacing_mm)
    known = np.isfinite(share)
    usual = float(np.median(share[known & ~near])) if (known & ~near).any() else 0.0
    streaked = known & near & (share > max(_STREAKED_SHARE, _BEYOND * usual))
    if np.count_nonzero(streaked) * spacing_mm[2] < _LEAST_MM:
        return []
    vertex = int(np.flatnonzero(skull.any(axis=(0, 1)))[-1])
    at = np.flatnonzero(streaked)
    high, low = (max(0.0, (vertex - k) * spacing_mm[2]) for k in (at[-1], at[0]))
    text = (
        f"Streaks of metal cross the head {high:.0f} to {low:.0f} mm below the vertex: "
        f"{100 * share[streaked].mean():.0f} % of what bone encloses there is too bright or too "
        "dark for soft tissue. Bone may be missing or added; check the slices."
    )
    return [Finding("streaks", "look", text)]


def _shares(values: NDArray[Any], skull: Mask, spacing_mm: Spacing) -> NDArray[np.float64]:
    """Return the share of the enclosed region that is not soft tissue, for each slice.

    It is NaN where bone encloses less than 5 cm2.
    """
    across = working_steps(spacing_mm)[:2]
    steps = (*across, 1)
    soft, bone = sampled(values, steps), any_of_blocks(skull, steps)
    pixel_mm = [step * s for step, s in zip(across, spacing_mm, strict=False)]
    share = np.full(values.shape[2], np.nan)
    for k in np.flatnonzero(bone.any(axis=(0, 1))):
        layer = bone[:, :, k]
        inside = spanned(layer) & (
            ndimage.distance_transform_edt(~layer, sampling=pixel_mm) > _WALL_MM
        )
        if np.count_nonzero(inside) * np.prod(pixel_mm) < 500:
            continue
        found = soft[:, :, k][inside]
        share[k] = np.mean((found < _BAND_HU[0]) | (found > _BAND_HU[1]))
    return share
