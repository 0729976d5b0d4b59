"""Checks of a prepared skull: a truncated vault, a defect of the vault, implausible sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import KDTree

from famseg.datasets.defects import vault_middle
from famseg.preparation.steps._bone import Mask
from famseg.preparation.steps._clean import Spacing

# Area of bone at the border of the scan. A whole head shows 0.3; a truncated one 12 if only its
# skin is missing, 30 if it is cut three millimeters deeper, and 50 at the widest level.
_EXPOSED_CM2 = 5.0
_DRY_SHARE = 0.5  # share of the columns that end in bone, above which there is no skin
_FLATTEST_RADIUS_MM = 120.0  # radius of curvature at a vertex
_RAYS = 6000
# Orbits and nose lie below. Of ten intact heads, none has a hole of 2 cm2 above -15 degrees; a head
# with a defect of the forehead has one of 6 to 9 cm2. The center of a truncated vault lies lower,
# so that more openings are visible from it.
LOWEST_DEG, _LOWEST_CUT_DEG = -15.0, 10.0
_NEIGHBORS = 8
_BOX_MM = ((100.0, 190.0), (120.0, 240.0), (60.0, 400.0))  # to the right, front and top
_VOLUME_ML = (200.0, 1600.0)


class Hole(NamedTuple):
    """The largest defect in a vault.

    Args:
        area_cm2: Its area on the vault.
        elevation_deg: Angle of its center above the horizontal, seen from the center of the vault.
        azimuth_deg: Angle of its center from the front, positive to the right.
    """

    area_cm2: float
    elevation_deg: float
    azimuth_deg: float

    @property
    def where(self) -> str:
        """Location of the defect in words.

        Example:
            >>> Hole(9.0, 30.0, -100.0).where
            'left, 30 degrees up'
            >>> Hole(9.0, -5.0, 20.0).where
            'at the front, 5 degrees down'
        """
        right = ("at the front", "front right", "right", "back right")
        sides = (*right, "at the back", "back left", "left", "front left")
        if self.elevation_deg > 70:
            return "at the top"
        side = sides[round(self.azimuth_deg / 45) % 8]
        way = "up" if self.elevation_deg >= 0 else "down"
        return f"{side}, {abs(self.elevation_deg):.0f} degrees {way}"


def truncated_vault(
    skull: Mask, spacing_mm: Spacing, values: NDArray[Any] | None = None, tissue: float = 0.0
) -> bool:
    """Return whether the vault is truncated by the border of the scan.

    In a CT of a head, skin covers the bone. If at least 5 cm2 of bone is the highest tissue in its
    columns, or reaches the sides of the scan above the center of the skull, the scan ends in bone.
    This does not depend on where the scan ends in the volume, which after a tilt correction is an
    oblique plane.

    In a mask or a dry skull, an intact vault ends in a cap. A layer of thickness s (one voxel) of a
    cap with the radius of curvature r has an area of at most 2 pi r s, with r = 120 mm here. A
    vault whose topmost layer, including the area it encloses, is more than twice as large has been
    truncated.

    Args:
        skull: The cleaned skull in the voxels of the scan, axes to the right, front and top.
        spacing_mm: Edge of a voxel along each axis.
        values: The scan, if it shows tissue.
        tissue: Threshold between air and the body.
    """
    if values is not None:
        highest = highest_tissue(values, tissue)
        ends = np.take_along_axis(skull, np.maximum(highest, 0)[:, :, None], axis=2)[:, :, 0]
        exposed = (highest >= 0) & ends
        if exposed.sum() < _DRY_SHARE * np.count_nonzero(highest >= 0):
            pixel_cm2 = spacing_mm[0] * spacing_mm[1] / 100
            return bool(exposed.sum() * pixel_cm2 >= _EXPOSED_CM2) or cut_at_side(skull, spacing_mm)
    top = int(np.flatnonzero(skull.any(axis=(0, 1)))[-1])
    area_mm2 = spanned(skull[:, :, top]).sum() * spacing_mm[0] * spacing_mm[1]
    return bool(area_mm2 > 2 * 2 * np.pi * _FLATTEST_RADIUS_MM * spacing_mm[2])


def highest_tissue(values: NDArray[Any], tissue: float) -> NDArray[np.intp]:
    """Return the index of the highest voxel above ``tissue`` in each column; -1 if there is none.

    Args:
        values: The scan, shape ``(X, Y, Z)``.
        tissue: Threshold between air and the body.

    Returns:
        Shape ``(X, Y)``.
    """
    highest = np.full(values.shape[:2], -1, dtype=np.intp)
    for k in range(values.shape[2]):  # by slice, because scans are stored slice by slice
        np.copyto(highest, k, where=values[:, :, k] > tissue)
    return highest


def spanned(layer: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest piece of a layer, with gaps along an axis filled.

    A ring then becomes a disc, even if orbits or a defect open it.
    """
    labels, _ = ndimage.label(layer, structure=np.ones((3, 3)))
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    sides = [
        np.logical_or.accumulate(largest, axis=axis)
        & np.flip(np.logical_or.accumulate(np.flip(largest, axis), axis=axis), axis)
        for axis in (0, 1)
    ]
    return np.asarray(sides[0] | sides[1])


def cut_at_side(skull: Mask, spacing_mm: Spacing) -> bool:
    heights = np.flatnonzero(skull.any(axis=(0, 1)))
    upper = skull[:, :, (int(heights[0]) + int(heights[-1])) // 2 :]
    for axis, edge in ((0, spacing_mm[1]), (1, spacing_mm[0])):
        for end in (0, -1):
            face = upper[end] if axis == 0 else upper[:, end]
            if face.sum() * edge * spacing_mm[2] / 100 >= _EXPOSED_CM2:
                return True
    return False


def vault_hole(skull: NDArray[np.uint8], spacing_mm: Spacing, *, truncated: bool) -> Hole | None:
    """Return the largest hole that anatomy does not explain; None if the vault is closed.

    Rays run from the center of the vault in all directions above -15 degrees (above 10 degrees in a
    truncated vault), where an intact vault has no foramina. Adjacent rays that meet no bone form a
    hole. Its area is the sum over its rays of the solid angle times the squared distance of the
    nearest surrounding bone.

    Args:
        skull: Mask of 0 and 1 on the final grid, axes to the right, front and top.
        spacing_mm: Edge of a voxel along each axis.
        truncated: Whether the top is missing; rays that leave through it are then not counted.
    """
    middle = vault_middle(skull)
    lowest_deg = _LOWEST_CUT_DEG if truncated else LOWEST_DEG
    rays = dome_rays(lowest_deg)
    spacing = np.asarray(spacing_mm)
    radius = first_bone(skull, middle, rays, spacing)
    met = np.isfinite(radius)
    if not met.any():
        return None
    _, near = KDTree(rays[met]).query(rays, k=min(_NEIGHBORS, int(met.sum())))
    around = radius[met][near].reshape(len(rays), -1)
    if truncated:
        top = np.flatnonzero(skull.any(axis=(0, 1)))[-1]
        met |= around.max(axis=1) * rays[:, 2] > (top - 1 - middle[2]) * spacing[2]
    expected = around.mean(axis=1)
    missed = np.flatnonzero(~met)
    if missed.size == 0:
        return None
    solid_angle = 2 * np.pi * (1 - np.sin(np.deg2rad(lowest_deg))) / len(rays)
    pairs = KDTree(rays[missed]).query_pairs(2 * np.sqrt(solid_angle), output_type="ndarray")
    links = sparse.coo_array(
        (np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(missed.size, missed.size)
    )
    _, patch = sparse.csgraph.connected_components(links, directed=False)
    areas = np.bincount(patch, weights=solid_angle * expected[missed] ** 2) / 100
    x, y, z = rays[missed[patch == np.argmax(areas)]].mean(axis=0)
    up, around = np.arctan2(z, np.hypot(x, y)), np.arctan2(x, y)
    return Hole(float(areas.max()), float(np.rad2deg(up)), float(np.rad2deg(around)))


def dome_rays(lowest_deg: float) -> NDArray[np.float64]:
    """Return directions spread evenly above an elevation (Fibonacci lattice), shape ``(N, 3)``."""
    lowest = np.sin(np.deg2rad(lowest_deg))
    up = lowest + (1 - lowest) * (np.arange(_RAYS) + 0.5) / _RAYS
    around = np.pi * (3 - np.sqrt(5)) * np.arange(_RAYS)  # the golden angle
    flat = np.sqrt(1 - up**2)
    return np.stack([flat * np.cos(around), flat * np.sin(around), up], axis=1)


def first_bone(
    skull: NDArray[np.uint8],
    middle: NDArray[np.float64],
    rays: NDArray[np.float64],
    spacing: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the distance to the first bone on each ray in mm; infinity if there is none."""
    step = float(spacing.min()) / 2
    found = np.full(len(rays), np.inf)
    for start, distances, bone in along_rays(skull, middle, rays, spacing, step):
        hit = bone.any(axis=1)
        found[start : start + len(bone)][hit] = distances[np.argmax(bone[hit], axis=1)]
    return found


def along_rays(
    skull: NDArray[np.uint8],
    middle: NDArray[np.float64],
    rays: NDArray[np.float64],
    spacing: NDArray[np.float64],
    step_mm: float,
) -> Iterator[tuple[int, NDArray[np.float64], Mask]]:
    """Yield where rays pass through bone, for 500 rays (a million points on 256^3) at a time.

    Args:
        skull: Mask of 0 and 1.
        middle: Common origin of the rays, as an index.
        rays: Directions of the rays, shape ``(N, 3)``.
        spacing: Edge of a voxel along each axis in mm.
        step_mm: Distance between points on a ray.

    Yields:
        The number of the first ray, the distances of the points in mm, and whether they are in
        bone, shape ``(500, places)``.
    """
    farthest = np.maximum(middle, np.array(skull.shape) - 1 - middle)
    distances = np.arange(0, float(np.linalg.norm(farthest * spacing)) + step_mm, step_mm)
    padded = np.pad(skull != 0, 1)  # points outside the grid are clipped to its border
    flat = padded.ravel()
    for start in range(0, len(rays), 500):
        part, at = rays[start : start + 500], np.intp(0)
        for axis, n in enumerate(padded.shape):
            places = middle[axis] + part[:, axis, None] * (distances / spacing[axis])
            index = np.clip(np.rint(places, out=places), -1, n - 2).astype(np.intp) + 1
            at = at * n + index
        yield start, distances, flat[at]


def implausible(volume_ml: float, box_mm: tuple[float, float, float]) -> list[str]:
    """Return one sentence for each implausible dimension of a skull.

    The bounds cover the vault and face of children and adults. Values outside of them are usually
    due to a wrong spacing, threshold or file.

    Args:
        volume_ml: Volume of the bone.
        box_mm: Extent of its bounding box to the right, front and top.
    """
    notes = []
    low, high = _VOLUME_ML
    if not low <= volume_ml <= high:
        notes.append(f"{volume_ml:.0f} ml of bone: skulls have {low:.0f} to {high:.0f} ml.")
    names = ("wide", "long", "high")
    for name, edge, (low, high) in zip(names, box_mm, _BOX_MM, strict=True):
        if not low <= edge <= high:
            notes.append(
                f"The skull is {edge:.0f} mm {name}: {low:.0f} to {high:.0f} mm are usual; is the "
                "spacing right?"
            )
    return notes
