"""Openings of a given area through the wall of the vault.

An opening takes 8 to 20 ms at 64^3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.datasets.defects._area import opening_area_cm2
from famseg.datasets.defects._outline import Outline, draw_outline
from famseg.datasets.defects._region import AREAS_CM2, Place, RegionDefect
from famseg.datasets.defects._vault import Array, Chart, Mask, make_chart, vault_middle
from famseg.messages import InputError

OPENING_VERSION = 1
"""Part of the settings of every fixed set; increased when the same seed gives another opening."""

AREA_TOLERANCE = 0.1
"""Largest relative difference between the measured and the drawn area of an opening."""

_ATTEMPTS = 32
_SAME_AREA = 8  # attempts before the area is drawn again
_TYPICAL_MM = 80.0  # from the center of the vault to its wall
_ROOM = 1.5  # size of the map relative to the expected outline
_WIDEST = 1.41  # largest radius of the map, a hemisphere
_MOST_OPEN = 0.08  # of an outline may have no bone: natural gaps, but not a truncated vault
_MOST_OTHER = 0.3  # largest share of an outline outside the wall of the vault
_MARGIN_MM = 5.0  # of the region on either side of the wall
_MOST_CHIPS = 0.3  # largest share of disconnected bone, relative to the removed bone
_MOST_BONE = 0.5
_MIN_BONE_VOXELS = 8
_CONNECTED = np.ones((3, 3, 3), dtype=bool)


class Opening(NamedTuple):
    """The region removed by an opening.

    Args:
        region: The removed region, including voxels without bone.
        target_cm2: Area that was drawn.
        area_cm2: Area of the region, as measured by `opening_area_cm2`.
    """

    region: Mask
    target_cm2: float
    area_cm2: float


class _Cut(NamedTuple):
    box: tuple[slice, ...]
    inside: Mask


class _Grown(NamedTuple):
    """An outline on the map, scaled to its area."""

    chart: Chart
    outline: Outline
    scale_mm: float
    unit_mm: float  # mm per unit of the map at the wall
    floor: float  # sine of the lowest elevation
    inside: Mask


def open_region(
    skull: NDArray[np.uint8], defect: RegionDefect, spacing: Array, rng: np.random.Generator
) -> Opening:
    """Draw an opening and return its region.

    Args:
        skull: Complete skull.
        defect: Family of defects to draw from.
        spacing: Edge of a voxel in mm.
        rng: Random generator.

    Raises:
        InputError: If no such opening fits the skull.
    """
    middle = vault_middle(skull)
    spacing_mm = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    area = defect.draw_area_cm2(rng)
    for attempt in range(_ATTEMPTS):
        if attempt and attempt % _SAME_AREA == 0:
            area = defect.draw_area_cm2(rng)
        region = _open_all(skull, defect, area, spacing, middle, rng)
        if region is None or not _take_chips(skull, region):
            continue
        measured = opening_area_cm2(skull, region, spacing_mm)
        if abs(measured - area) <= AREA_TOLERANCE * area:
            return Opening(region, area, measured)
    low, high = defect.area_cm2 or AREAS_CM2[defect.where]
    raise InputError(
        f"no {defect.where} defect of {low:g} to {high:g} cm2 in {_ATTEMPTS} draws: the vault has "
        "no complete wall there (is it cut off by the scan, or does it have a defect?); leave the "
        "skull out, or choose another class or a smaller area_cm2"
    )


def _open_all(
    skull: NDArray[np.uint8],
    defect: RegionDefect,
    area_cm2: float,
    spacing: Array,
    middle: Array,
    rng: np.random.Generator,
) -> Mask | None:
    """Draw one or two openings; None if the wall is incomplete at one of them."""
    region = np.zeros(skull.shape, dtype=bool)
    places = defect.draw_places(rng)
    for place in places:
        share = area_cm2 / len(places)
        grown = _grow(skull, place, share, defect.roughness_mm, spacing, middle, rng)
        cut = None if grown is None else _voxels(skull, grown, spacing, middle)
        if cut is None:
            return None
        region[cut.box] |= cut.inside
    return region


def _grow(
    skull: NDArray[np.uint8],
    place: Place,
    area_cm2: float,
    roughness_mm: float,
    spacing: Array,
    middle: Array,
    rng: np.random.Generator,
) -> _Grown | None:
    """Draw a center and an outline, and scale it to the area; None if the wall is incomplete."""
    azimuth, elevation = place.draw(rng)
    outline = draw_outline(rng, area_cm2, roughness_mm, across=place.across)
    flat = np.cos(elevation)
    ahead = np.array([flat * np.sin(azimuth), flat * np.cos(azimuth), np.sin(elevation)])
    expected = np.sqrt(area_cm2 * 100 / np.pi) * float(outline.shape.max())
    width = min(_ROOM * expected / _TYPICAL_MM, _WIDEST)
    chart = make_chart(skull, spacing, middle, ahead, width)
    if not chart.wall.any():
        return None
    unit = float(np.median(chart.outer_mm[chart.wall]))
    floor = float(np.sin(np.deg2rad(place.floor_deg)))
    x, y = chart.x * unit, chart.y * unit
    allowed = chart.looked & _above(
        chart.frame.directions(chart.x, chart.y)[..., 2], floor, unit, outline, x, y
    )
    scales = np.where(allowed, outline.scale(x, y), np.inf)
    scale = _solve(scales, chart.area_cm2, area_cm2)
    rim = outline.scale(x, y)[chart.looked & (chart.x**2 + chart.y**2 > (width - chart.pixel) ** 2)]
    if scale is None or scale > rim.min():
        return None
    inside = scales <= scale
    count = np.count_nonzero(inside)
    if np.count_nonzero(inside & chart.open) > _MOST_OPEN * count:
        return None
    if np.count_nonzero(inside & ~chart.wall) > _MOST_OTHER * count:
        return None
    return _Grown(chart, outline, scale, unit, floor, inside)


def _above(
    up: Array, floor: float, unit: float, outline: Outline, x_mm: Array, y_mm: Array
) -> Mask:
    """Return which directions are above the floor, whose edge is as rough as the outline."""
    return np.asarray((up - floor) * unit > -outline.displacement_mm(x_mm, y_mm))


def _solve(scales: Array, areas_cm2: Array, area_cm2: float) -> float | None:
    """Return the scale at which the pixels inside have the area; None if all pixels have less."""
    order = np.argsort(scales, axis=None, kind="stable")
    order = order[: int(np.count_nonzero(np.isfinite(scales)))]
    total = np.cumsum(areas_cm2.ravel()[order])
    if not total.size or total[-1] < area_cm2:
        return None
    # Half of the last pixel is counted, since the outline passes through it.
    return float(np.interp(area_cm2, total, scales.ravel()[order]))


def _voxels(skull: NDArray[np.uint8], grown: _Grown, spacing: Array, middle: Array) -> _Cut | None:
    """Return the voxels of an opening: all within the outline, through the whole wall.

    Smaller separate pieces of bone are kept, so that an opening removes one piece.
    """
    chart = grown.chart
    taken = chart.wall & ndimage.binary_dilation(grown.inside)
    low = ndimage.minimum_filter(np.where(taken, chart.inner_mm, np.inf), 3) - _MARGIN_MM
    high = ndimage.maximum_filter(np.where(taken, chart.outer_mm, -np.inf), 3) + _MARGIN_MM
    box, points = _box(skull.shape, chart, taken, low, high, spacing, middle)
    x, y, distance = chart.frame.project(points)
    i, j = chart.nearest(x, y)
    inside = (distance >= low[i, j]) & (distance <= high[i, j])
    near = np.flatnonzero(inside)
    x_mm, y_mm = x.ravel()[near] * grown.unit_mm, y.ravel()[near] * grown.unit_mm
    up = points.reshape(-1, 3)[near, 2] / distance.ravel()[near]
    kept = grown.outline.scale(x_mm, y_mm) <= grown.scale_mm
    kept &= _above(up, grown.floor, grown.unit_mm, grown.outline, x_mm, y_mm)
    inside.ravel()[near] = kept
    pieces, count = ndimage.label(inside & (skull[box] != 0), structure=_CONNECTED)
    if count == 0:
        return None
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    if sizes.max() < _MIN_BONE_VOXELS:
        return None
    inside &= (pieces == 0) | (pieces == sizes.argmax())
    return _Cut(box, inside)


def _box(
    shape: tuple[int, ...],
    chart: Chart,
    taken: Mask,
    low: Array,
    high: Array,
    spacing: Array,
    middle: Array,
) -> tuple[tuple[slice, ...], Array]:
    """Return the bounding box of an opening, and its voxels relative to the center in mm."""
    rays = chart.frame.directions(chart.x[taken], chart.y[taken])
    ends = np.concatenate([rays * low[taken][:, None], rays * high[taken][:, None]])
    ends = ends / spacing + middle
    spread = float(chart.pixel * high[taken].max()) / spacing + 1
    start = np.clip(np.floor(ends.min(axis=0) - spread).astype(int), 0, shape)
    stop = np.clip(np.ceil(ends.max(axis=0) + spread).astype(int) + 1, 0, shape)
    axes = [
        (np.arange(a, b) - m) * s for a, b, m, s in zip(start, stop, middle, spacing, strict=True)
    ]
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return box, np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _take_chips(skull: NDArray[np.uint8], region: Mask) -> bool:
    """Add disconnected bone to the region; return whether the opening is valid.

    Bone that the opening separates from the skull becomes part of the implant, because a surgeon
    would remove loose chips. Pieces that were separate before are kept.
    """
    (box,) = ndimage.find_objects(skull != 0, 1)  # smaller, since labeling is the slowest step
    bone, inside = skull[box] != 0, region[box]
    implant = bone & inside
    taken = int(np.count_nonzero(implant))
    if not 0 < taken <= _MOST_BONE * int(np.count_nonzero(bone)):
        return False
    pieces, count = ndimage.label(bone & ~inside, structure=_CONNECTED)
    if count < 2:
        return bool(count)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    beside = np.unique(pieces[ndimage.binary_dilation(implant, structure=_CONNECTED)])
    loose = [int(k) for k in beside if k not in (0, sizes.argmax())]
    if int(sizes[loose].sum()) > _MOST_CHIPS * taken:
        return False
    if loose:
        inside |= np.isin(pieces, loose)  # `inside` is a view of the region
    return True
