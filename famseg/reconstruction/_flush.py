"""Flushness of the outer surface of an implant with the skull around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from famseg.reconstruction._chart import Array, Chart, Layer, Mask, vault_middle_mm
from famseg.reconstruction._outline import pieces_of
from famseg.reconstruction._surfaces import across

_MARGIN_MM = 12.0
_BAND_MM = (1.0, 4.0)  # from the outline inwards; closer, voxels of both form the surface
_FINEST_MM = 0.8
_LEAST = 20
# Good implants of phantoms and real vaults have up to 1.04 and 2.4 mm.
_MOST_STEP_MM, _MOST_STEP_VOXELS = 1.5, 0.5  # median
_MOST_OFF_MM, _MOST_OFF_VOXELS = 3.0, 1.5  # 95th percentile


class Step(NamedTuple):
    """Distances in mm along rays from the vault's center at the outline of an implant.

    Attributes:
        median_mm: Of the implant's outer surface beyond the skull's, continued smoothly over 1 to 4
            mm from the outline; negative where it lies deeper.
        p95_mm: 95th percentile of its magnitude.
        pixels: Number of compared pixels of the map.
    """

    median_mm: float
    p95_mm: float
    pixels: int


def step_mm(implant: Mask, skull: Mask, affine: Array) -> tuple[Step | None, ...]:
    r"""Measure the step at the outline of each piece of an implant, the largest first.

    The step is the radial distance, along rays from the center of the vault, from the outer surface
    of the bone to that of implant and bone,

    .. math:: s = r_{\text{implant}} - r_{\text{bone}},

    where the surface of the bone is measured within 12 mm around the piece, more than a voxel away
    from it, and continued across it as a smoothed thin plate. The step is evaluated at all pixels
    of an equal-area map (of the voxels' shortest edge, 0.8 mm or more) that lie 1 to 4 mm inside
    the outline and no farther than 4 mm and two voxels from bone that was measured. An implant that
    is flush has a median of 0; a positive one is above the bone, a negative one below it.

    Args:
        implant: Mask, shape ``(X, Y, Z)``.
        skull: The skull with the defect, same shape.
        affine: Maps voxel indices to RAS+ mm, shape ``(4, 4)``.

    Returns:
        One per piece; None for a piece next to which the wall is not a height field, as at an
        orbit, or with fewer than 20 such pixels. Takes about 0.2 s a piece.
    """
    return steps_from(implant, skull, affine, vault_middle_mm(skull, affine))


def steps_from(implant: Mask, skull: Mask, affine: Array, origin: Array) -> tuple[Step | None, ...]:
    """Return what `step_mm` does, along rays from a point inside the vault."""
    return tuple(
        _of_piece(piece.placed(implant.shape), skull, affine, origin)
        for piece in pieces_of(implant, affine)[0]
    )


def not_flush(steps: Sequence[Step | None], voxel_mm: float) -> list[str]:
    """Return a sentence for each piece whose outer surface is above or below that of the skull.

    A piece is flush if its step is at most 1.5 mm in the median and 3 mm at the 95th percentile, or
    half a voxel and one and a half if that is more. Nothing is said of a piece without a step:
    there, the wall is not a single layer, which has a warning of its own.

    Args:
        steps: From `step_mm`.
        voxel_mm: Longest edge of a voxel.

    Example:
        >>> not_flush([Step(0.3, 0.9, 400), None], 1.75)
        []
        >>> not_flush([Step(-2.0, 4.0, 160)], 1.75)[0][:75]
        "NOT FLUSH: 1 to 4 mm inside its outline, the implant's outer surface is 2.0"
    """
    most = max(_MOST_STEP_MM, _MOST_STEP_VOXELS * voxel_mm)
    most_off = max(_MOST_OFF_MM, _MOST_OFF_VOXELS * voxel_mm)
    found = []
    for number, step in enumerate(steps, start=1):
        if step is None or (abs(step.median_mm) <= most and step.p95_mm <= most_off):
            continue
        where = "is {:.1f} mm below" if step.median_mm < 0 else "is {:.1f} mm above"
        of = f" of piece {number}" if len(steps) > 1 else ""
        found.append(
            "NOT FLUSH: 1 to 4 mm inside its outline, the implant's outer surface"
            f"{of} {where.format(abs(step.median_mm))} the continuation of the skull around it "
            f"(median; 95th percentile of the absolute step: {step.p95_mm:.1f} mm). Check its rim."
        )
    return found


def _of_piece(own: Mask, skull: Mask, affine: Array, origin: Array) -> Step | None:
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    pixel_mm = float(max(edges.min(), _FINEST_MM))
    chart = Chart.around(own, affine, origin, margin_mm=_MARGIN_MM, pixel_mm=pixel_mm)
    x, y = chart.coordinates()
    disc = x**2 + y**2 < 3.8
    shadow = chart.shadow(own, disc)
    use = disc & (ndimage.distance_transform_edt(~shadow) * chart.pixel_mm < _MARGIN_MM)
    bone = chart.walls([Layer.of(skull)], use)
    outside = ndimage.distance_transform_edt(~shadow) * chart.pixel_mm
    known = use & bone.there & (outside > float(edges.max()))
    if np.count_nonzero(known) < _LEAST:
        return None
    continued = across(chart, bone, known, use)
    made = chart.walls([Layer.of(own | skull)], shadow)
    depth = ndimage.distance_transform_edt(shadow) * chart.pixel_mm
    beside = ndimage.distance_transform_edt(~continued.known) * chart.pixel_mm
    band = shadow & made.there & (depth >= _BAND_MM[0]) & (depth <= _BAND_MM[1])
    band &= beside <= _BAND_MM[1] + 2 * float(edges.max())
    if np.count_nonzero(band) < _LEAST:
        return None
    off = (made.outer_mm - continued.outer_mm)[band]
    return Step(float(np.median(off)), float(np.percentile(np.abs(off), 95)), int(off.size))
