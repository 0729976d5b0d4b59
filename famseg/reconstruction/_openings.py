"""Openings of a vault: rays from its center that leave it without meeting bone.

A network may mistake the thin bone of an orbit for a defect, or fill only half of a defect. Rays do
not depend on training: above -15 degrees an intact vault lets hardly any ray out. Of ten intact
heads none has an opening above 2.3 cm2, and of about 130 defects none is below 8 cm2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.interpolate import RBFInterpolator
from scipy.spatial import KDTree

from famseg.datasets.defects import cast_rays
from famseg.preparation.steps import LOWEST_DEG, Hole, dome_rays, moved_points
from famseg.reconstruction._frame import Frame, Vault

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Probability = NDArray[np.float32]

SMALLEST_CM2 = 3.0
"""Openings of at least this area are defects."""

_BELOW_TOP_MM = 56.0  # below the top of the inner surface, so that rays start above the orbits
_NEIGHBORS = 8
_RIM_RAYS = 400  # number of rays around an opening to which its wall is fitted
_SMOOTHING = 1.0
_LEAST_WALL_MM, _MOST_WALL_MM = 3.0, 14.0
_FILLS_CM2 = 1.0  # smallest area of an opening behind a piece of the prediction that belongs to it
_FULL = np.ones((3, 3, 3), dtype=bool)


class Openings(NamedTuple):
    """The openings of a vault.

    Args:
        found: Openings with area and location, the largest first.
        middle: Origin of the rays in voxels of the frame.
        rays: Their directions, shape ``(N, 3)``.
        label: For each ray the number of its opening in ``found``; -1 for none.
        area_cm2: The area that each ray represents on the vault.
        inner_mm: Distance at which each ray enters the wall, continued across openings.
        outer_mm: Distance at which it leaves the wall.
    """

    found: tuple[Hole, ...]
    middle: Floats
    rays: Floats
    label: NDArray[np.intp]
    area_cm2: Floats
    inner_mm: Floats
    outer_mm: Floats

    @property
    def total_cm2(self) -> float:
        """Total area of the openings that are large enough to be a defect."""
        return sum(hole.area_cm2 for hole in self.found if hole.area_cm2 >= SMALLEST_CM2)


@dataclass(frozen=True, eq=False)
class Checked:
    """A prediction made consistent with the openings.

    Args:
        probability: The prediction, ``(S, S, S)``.
        added_cm2: Area of openings that it had not filled and that is filled now.
        dropped_ml: Volume of pieces that did not fill an opening and were removed.
    """

    probability: Probability
    added_cm2: float
    dropped_ml: float


def find_openings(seen: Mask, frame: Frame, vault: Vault) -> Openings:
    """Find the openings of a vault in the frame of a network.

    Args:
        seen: Bone in the frame.
        frame: The frame.
        vault: From `fit_vault`.
    """
    start_mm = np.array([*vault.middle_mm[:2], vault.top_mm - _BELOW_TOP_MM])
    to_index: Floats = np.asarray(np.linalg.inv(frame.affine), dtype=np.float64)
    middle = moved_points(start_mm[None], to_index)[0]
    rays = dome_rays(LOWEST_DEG)
    inner, outer = cast_rays(seen.view(np.uint8), np.full(3, frame.spacing_mm), middle, rays)
    met = inner > 0
    label = np.full(len(rays), -1, dtype=np.intp)
    solid_angle = 2 * np.pi * (1 - np.sin(np.deg2rad(LOWEST_DEG))) / len(rays)
    if met.sum() < _NEIGHBORS:
        return Openings((), middle, rays, label, np.zeros(len(rays)), inner, outer)
    _, near = KDTree(rays[met]).query(rays, k=_NEIGHBORS)
    area = solid_angle * inner[met][near].mean(axis=1) ** 2 / 100
    missed = np.flatnonzero(~met)
    found: list[Hole] = []
    if missed.size:
        patches = _patches(rays[missed], 2 * float(np.sqrt(solid_angle)))
        sizes = np.bincount(patches, weights=area[missed])
        for number, patch in enumerate(np.argsort(-sizes, kind="stable")):
            own = missed[patches == patch]
            label[own] = number
            x, y, z = rays[own].mean(axis=0)
            up, around = np.arctan2(z, np.hypot(x, y)), np.arctan2(x, y)
            found.append(
                Hole(float(sizes[patch]), np.rad2deg(up).item(), np.rad2deg(around).item())
            )
        inner, outer = _continued(rays, met, inner, outer)
    return Openings(tuple(found), middle, rays, label, area, inner, outer)


def hold_against(
    probability: Probability, openings: Openings, frame: Frame, threshold: float
) -> Checked:
    """Make a prediction consistent with the openings of the vault.

    Pieces that do not lie in an opening are removed. If an opening is large enough to be a defect
    and the network predicts nothing along a ray, the surrounding wall is continued across it by
    thin plates fitted to the distance of its inner surface and to its thickness.

    Args:
        probability: Prediction of the network, ``(S, S, S)``.
        openings: From `find_openings`.
        frame: The frame.
        threshold: Probability above which a voxel belongs to the implant.
    """
    large = [n for n, hole in enumerate(openings.found) if hole.area_cm2 >= SMALLEST_CM2]
    through = np.isin(openings.label, large)
    labels, count = ndimage.label(probability > threshold, structure=_FULL)
    hit = _first_piece(labels, openings, frame, np.flatnonzero(through))
    behind = np.bincount(hit, weights=openings.area_cm2[through], minlength=count + 1)
    kept = behind >= _FILLS_CM2
    kept[0] = True
    dropped = ~kept[labels]
    result = probability.copy()
    if dropped.any():
        # Voxels below the threshold around a dropped piece are removed with it.
        _, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
        result[~kept[labels[tuple(nearest)]]] = 0
    open_rays = np.flatnonzero(through)[~kept[hit] | (hit == 0)]
    added = _shell(openings, open_rays, frame)
    result[added] = 1.0
    return Checked(
        result,
        float(openings.area_cm2[open_rays].sum()),
        float(np.count_nonzero(dropped)) * frame.spacing_mm**3 / 1000,
    )


def _patches(rays: Floats, reach: float) -> NDArray[np.intp]:
    pairs = KDTree(rays).query_pairs(reach, output_type="ndarray")
    links = sparse.coo_array(
        (np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(rays), len(rays))
    )
    return np.asarray(sparse.csgraph.connected_components(links, directed=False)[1])


def _continued(rays: Floats, met: Mask, inner: Floats, outer: Floats) -> tuple[Floats, Floats]:
    """Return the distances of both surfaces, continued to rays that met no bone."""
    thick = np.clip(outer - inner, _LEAST_WALL_MM, _MOST_WALL_MM)
    away, _ = KDTree(rays[~met]).query(rays[met])
    around = np.flatnonzero(met)[np.argsort(away, kind="stable")[:_RIM_RAYS]]
    values = np.column_stack([inner[around], thick[around]])
    plate = RBFInterpolator(rays[around], values, smoothing=_SMOOTHING, degree=1)
    inner, outer = inner.copy(), outer.copy()
    across = plate(rays[~met])
    inner[~met] = across[:, 0]
    outer[~met] = across[:, 0] + np.clip(across[:, 1], _LEAST_WALL_MM, _MOST_WALL_MM)
    return inner, outer


def _first_piece(
    labels: NDArray[np.int32], openings: Openings, frame: Frame, chosen: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return the first labeled piece that each of the chosen rays meets; 0 for none."""
    steps = np.arange(20.0, 150.0, frame.spacing_mm / 2) / frame.spacing_mm
    hit = np.zeros(len(chosen), dtype=np.intp)
    for n, ray in enumerate(openings.rays[chosen]):
        index = np.rint(openings.middle + ray * steps[:, None]).astype(np.intp)
        inside = np.all((index >= 0) & (index < labels.shape), axis=1)
        met = labels[tuple(index[inside].T)]
        met = met[met > 0]
        hit[n] = met[0] if met.size else 0
    return hit


def _shell(openings: Openings, chosen: NDArray[np.intp], frame: Frame) -> Mask:
    """Return the voxels of the frame between both surfaces of the wall, on the chosen rays."""
    shell = np.zeros((frame.size,) * 3, dtype=bool)
    if chosen.size == 0:
        return shell
    places = (np.indices(shell.shape).reshape(3, -1).T - openings.middle) * frame.spacing_mm
    away = np.linalg.norm(places, axis=1)
    near = (away > openings.inner_mm[chosen].min()) & (away < openings.outer_mm[chosen].max())
    _, ray = KDTree(openings.rays).query(places[near] / away[near, None])
    picked = np.zeros(len(openings.rays), dtype=bool)
    picked[chosen] = True
    inside = picked[ray] & (away[near] >= openings.inner_mm[ray])
    inside &= away[near] <= openings.outer_mm[ray]
    flat = shell.reshape(-1)
    flat[np.flatnonzero(near)[inside]] = True
    return shell
