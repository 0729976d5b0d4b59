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

_METAL_HU = 2500.0  # above dense bone and enamel, below the blurred value of thin clips
_METAL_ML = 0.02  # volume of metal within the thickness of a slice
_BAND_HU = (-150.0, 200.0)  # contains brain, fluid, blood and fat, including noise
_WALL_MM = 4.0  # distance from bone, whose edges are blurred
_STREAKED_SHARE = 0.03  # share of the cavity
_BEYOND = 3.0  # times the share in slices without metal
_LEAST_MM = 4.0  # height of the slices with streaks
_NEAR_MM = 4.0  # slices this close to metal count as slices with metal


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
    if scale is None or not hounsfield or float(values.max()) <= _METAL_HU:
        return []
    metal_ml = np.array(
        [np.count_nonzero(values[:, :, k] > _METAL_HU) for k in range(values.shape[2])]
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
