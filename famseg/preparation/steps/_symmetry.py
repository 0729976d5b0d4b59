"""Turning of heads upright without a template, by the plane of symmetry and the skull base."""

from __future__ import annotations

from functools import cache
from itertools import islice, product
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- the name its users know it by
from numpy.typing import NDArray
from scipy import ndimage

from famseg.datasets import phantom
from famseg.preparation.steps._align import (
    Template,
    angle_deg,
    as_template,
    matrix_of,
    refined,
    start_at,
    surface_map,
)
from famseg.preparation.steps._grid import Matrix, Points, moved_points
from famseg.volumes import Volume

_CELL_MM = 6.0
_REACH_MM = 20.0
_BORDER_MM, _MOVING_BORDER_MM = 18.0, 60.0
_TILTS_DEG = (-20.0, -10.0, 0.0, 10.0, 20.0)  # of the plane, leaning and turning
_PITCHES_DEG = (-30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0)
_CUT_MM = (0.0, 25.0, 50.0)  # possible height of the missing top of a vault
_SAMPLED = 4000  # points
_AS_GOOD = 1.2  # a second start is refined if its distance is at most this many times the best
_FAR_DEG = 15.0  # closer starts lead to the same plane
_MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


class Upright(NamedTuple):
    """The pose of a head that was turned upright.

    Args:
        to_source: Maps mm of the upright frame to mm of the scan's world: a rigid motion, shape
            ``(4, 4)``. The x axis of the frame is perpendicular to the plane of symmetry and points
            to the right; z points up.
        asymmetry_mm: Root mean square distance of the surface's mirror image to the surface, with
            distances truncated at 20 mm.
    """

    to_source: Matrix
    asymmetry_mm: float


def upright(surface_mm: Points) -> Upright:
    """Find the rotation that turns a head upright.

    1. Leaning and turning: SimpleITK aligns the mirror image of the surface to the surface (mean
       squared difference of two distance maps on a grid of 6 mm, truncated at 20 mm,
       `Euler3DTransform`). The plane halfway between them is the plane of symmetry.
    2. Nodding: the surface, with its plane upright, is aligned to a symmetric phantom. The whole
       surface of the phantom contributes, but since vaults are round, it is the skull base that
       determines the angle of nodding. Only the rotation about the axis perpendicular to the plane
       is used.

    Args:
        surface_mm: Surface of the skull in mm of its scan's world, shape ``(N, 3)``, axes roughly
            to the right, front and top.

    Returns:
        The pose. This takes one or two seconds; the same surface gives the same pose.
    """
    surface = _thinned(surface_mm)
    frame = _plane(surface)
    standing = moved_points(surface, np.asarray(np.linalg.inv(frame)))
    pitch = _pitch(standing)
    cosine, sine = np.cos(pitch), np.sin(pitch)
    nod = np.eye(4)
    nod[1:3, 1:3] = [[cosine, -sine], [sine, cosine]]
    return Upright(frame @ nod, _asymmetry_mm(standing))


def _thinned(points: Points, cell_mm: float = 2.0) -> Points:
    """Return one point per cell, since fine scans have a million points."""
    cells = np.floor((points - points.min(axis=0)) / cell_mm).astype(np.int64)
    shape = cells.max(axis=0) + 1
    _, first = np.unique(np.ravel_multi_index(tuple(cells.T), tuple(shape)), return_index=True)
    return points[first]


def _plane(surface: Points) -> Matrix:
    """Return the map to the world from a frame whose x is normal to the plane of symmetry."""
    middle = surface.mean(axis=0)  # lies in the plane, except for asymmetries
    centered = surface - middle
    maps = (
        surface_map(centered * [-1, 1, 1], _CELL_MM, _BORDER_MM),
        surface_map(centered, _CELL_MM, _MOVING_BORDER_MM),
    )
    starts = []
    for roll, yaw in product(np.deg2rad(_TILTS_DEG), repeat=2):
        turn = _turned(roll, yaw)
        start = sitk.Euler3DTransform()
        # The mirror image of a head tilted by `turn` is tilted by the opposite angle.
        start.SetMatrix((turn @ _MIRROR[:3, :3] @ turn.T @ _MIRROR[:3, :3]).ravel().tolist(), 1e-6)
        starts.append((_distance_mm(centered * [-1, 1, 1], start, maps[1]), start))
    motion = matrix_of(_followed(starts, maps, _FAR_DEG)) @ _MIRROR
    values, vectors = np.linalg.eigh((motion[:3, :3] + motion[:3, :3].T) / 2)
    across = vectors[:, np.argmin(values)]  # the axis that is reversed
    across = across * np.sign(across[0])
    front = np.array([0.0, 1.0, 0.0]) - across[1] * across
    front /= np.linalg.norm(front)
    frame = np.eye(4)
    frame[:3, :3] = np.stack([across, front, np.cross(across, front)], axis=1)
    frame[:3, 3] = middle + across * (across @ motion[:3, 3]) / 2
    return frame


def _turned(roll: float, yaw: float) -> NDArray[np.float64]:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(0.0, roll, yaw)
    return np.array(transform.GetMatrix()).reshape(3, 3)


def _pitch(standing: Points) -> float:
    """Return the angle of nodding in radians of a head whose plane of symmetry is upright."""
    template = _phantom()
    maps = (
        surface_map(template.surface, _CELL_MM, _BORDER_MM),
        surface_map(standing, _CELL_MM, _MOVING_BORDER_MM),
    )
    starts = []
    for pitch, cut in product(np.deg2rad(_PITCHES_DEG), _CUT_MM):
        start = start_at(standing, template, np.array([pitch, 0.0, 0.0]), cut_mm=cut)
        starts.append((_distance_mm(template.surface, start, maps[1]), start))
    motion = matrix_of(_followed(starts, maps, 0.0))
    return float(np.arctan2(motion[2, 1] - motion[1, 2], motion[1, 1] + motion[2, 2]))


def _followed(
    starts: list[tuple[float, sitk.Transform]],
    maps: tuple[sitk.Image, sitk.Image],
    far_deg: float,
) -> sitk.Transform:
    """Refine the best start, and the next best that is about as good and different enough."""
    ranked = sorted(starts, key=lambda s: s[0])
    least, first = ranked[0]
    back = np.linalg.inv(matrix_of(first))
    others = (
        start
        for distance, start in ranked[1:]
        if distance < _AS_GOOD * least and angle_deg(back @ matrix_of(start)) > far_deg
    )
    followed = [first, *islice(others, 1)]
    return min((refined(s, maps, _CELL_MM) for s in followed), key=lambda f: f[0])[1]


@cache
def _phantom() -> Template:
    """Return a mirror-symmetric phantom."""
    spacing = 3.5
    mask = phantom(0, 0, 64)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * 31.5
    return as_template(Volume(mask | mask[::-1], affine))


def _asymmetry_mm(standing: Points) -> float:
    image = surface_map(standing, _CELL_MM / 2, _BORDER_MM)
    return _distance_mm(standing * [-1, 1, 1], sitk.Euler3DTransform(), image)


def _distance_mm(points: Points, motion: sitk.Transform, image: sitk.Image) -> float:
    """Return the root mean square of a distance map at transformed points.

    This uses a regular sample of the points. SimpleITK would evaluate the whole map, which takes
    fifty times as long.
    """
    sample = moved_points(points[:: max(1, len(points) // _SAMPLED)], matrix_of(motion))
    index = (sample - np.array(image.GetOrigin())) / np.array(image.GetSpacing())
    values = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)
    found = ndimage.map_coordinates(values, index.T, order=1, mode="nearest")
    return float(np.sqrt(np.mean(np.square(np.clip(found, 0, _REACH_MM)))))
