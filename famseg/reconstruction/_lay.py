"""One piece of a defect: its chart, its edge, and the wall across it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from famseg.messages import InputError
from famseg.reconstruction._chart import Array, Chart, Layer, Mask, Wall
from famseg.reconstruction._outline import Box, Piece, check_border, opened, share_there
from famseg.reconstruction._surfaces import MARGIN_MM, Surfaces, across, between

_FINEST_MM, _COARSEST_MM = 1.0, 3.5
_FARTHEST = 1.95  # of 2, since the opposite pole cannot be mapped
_WHOLE = 0.9
_BESIDE = 1.5
_LEAST_KNOWN = 30
_MOST_CUT_AROUND, _MOST_CUT = 0.02, 0.1  # of the wall around and across a defect
_AROUND_MM = 6.0  # width of the bone expected around a defect
_SHRUNK = 0.3
_OUTLINE_MARGIN_MM = 5.0
_EMPTY_BOX = (slice(0, 0),) * 3


@dataclass(frozen=True)
class Laid:
    """A piece of a defect with the wall across it.

    Args:
        chart: The map.
        pixels: The defect on the map.
        use: Pixels with surfaces.
        wall: The measured wall.
        surfaces: The wall across the defect.
        edge_mm: Longest edge of a voxel.
    """

    chart: Chart
    pixels: Mask
    use: Mask
    wall: Wall
    surfaces: Surfaces
    edge_mm: float

    def implant(self, skull: Mask) -> tuple[Box, Mask]:
        """Return a box of the volume and the missing voxels of the wall in it.

        A voxel at the edge may lie over a pixel that is mostly bone. It is filled only if it lies
        well within the wall, so that nothing is added to intact bone.
        """
        if not self.pixels.any():
            return _EMPTY_BOX, np.zeros((0, 0, 0), dtype=bool)
        steps = max(round(self.edge_mm / self.chart.pixel_mm), 1)
        wide = ndimage.binary_dilation(self.pixels, np.ones((3, 3)), iterations=steps) & self.use
        shrunk = np.where(self.pixels, 0.0, _SHRUNK * self.edge_mm)
        inner = replace(
            self.surfaces,
            inner_mm=self.surfaces.inner_mm + shrunk,
            outer_mm=self.surfaces.outer_mm - shrunk,
        )
        box, mask = between(self.chart, inner, wide, skull.shape)
        return box, mask & ~skull[box]

    def outline(self, shape: tuple[int, ...]) -> tuple[Box, Mask]:
        """Return a box with the region of the defect, bone included, to 5 mm beyond the wall."""
        if not self.pixels.any():
            return _EMPTY_BOX, np.zeros((0, 0, 0), dtype=bool)
        return between(self.chart, self.surfaces, self.pixels, shape, margin_mm=_OUTLINE_MARGIN_MM)


def lay(skull: Mask, affine: Array, origin: Array, piece: Piece, *, snap_mm: float) -> Laid:
    """Fit thin plates across a piece of a defect.

    The outline is accurate only to ``snap_mm``. Plates are therefore fitted twice: across the
    outline with this margin, and then across the pixels where bone is actually missing.

    Args:
        skull: The defective skull.
        affine: Maps voxel indices to RAS+ mm.
        origin: Origin of the rays.
        piece: The outline.
        snap_mm: Largest distance of the edge of the bone outside the outline.

    Raises:
        InputError: If there is too little of the vault's wall around the piece.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    pixel_mm = float(np.clip(edges.min(), _FINEST_MM, _COARSEST_MM))
    region = piece.placed(skull.shape)
    chart = Chart.around(region, affine, origin, margin_mm=MARGIN_MM + snap_mm, pixel_mm=pixel_mm)
    x, y = chart.coordinates()
    disc = x**2 + y**2 < _FARTHEST**2
    core = ndimage.binary_fill_holes(chart.shadow(region, disc))
    reach = ndimage.distance_transform_edt(~core) * chart.pixel_mm
    use = disc & (reach < MARGIN_MM + snap_mm)
    wall = chart.walls([Layer.of(skull)], use)
    zone = use & (reach <= snap_mm)
    if np.count_nonzero(use & ~zone & wall.there & ~wall.doubtful) < _LEAST_KNOWN:
        raise InputError(
            "the scan shows hardly any bone of the vault around the defect: give a scan that shows "
            "it"
        )
    surfaces = across(chart, wall, use & ~zone, use)
    share = share_there(wall, surfaces)
    pixels = opened(share, zone & (core | ~wall.doubtful), core)
    beside = ndimage.distance_transform_edt(~pixels) <= _BESIDE
    known = use & ~pixels & ((share >= _WHOLE) | ~beside)
    surfaces = across(chart, wall, known, use)
    around = ndimage.binary_dilation(pixels, iterations=round(_AROUND_MM / chart.pixel_mm)) & use
    around &= ~pixels
    middle = (surfaces.inner_mm + surfaces.outer_mm) / 2
    for place, most in ((around, _MOST_CUT_AROUND), (pixels, _MOST_CUT)):
        rays = chart.frame.directions(x[place], y[place])
        check_border(origin + rays * middle[place][:, None], affine, skull.shape, most)
    return Laid(chart, pixels, use, wall, surfaces, float(edges.max()))
