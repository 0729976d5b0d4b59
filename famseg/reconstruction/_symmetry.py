"""Comparison of predictions below the vault with the vault and the head's other side."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from famseg.preparation.steps import LOWEST_DEG
from famseg.reconstruction._frame import Frame
from famseg.reconstruction._mirror import mirrored, reflection
from famseg.reconstruction._openings import SMALLEST_CM2, Openings
from famseg.reconstruction._refine import Other

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Probability = NDArray[np.float32]

_REACH_DEG = 20.0  # largest extent of a defect below its part seen by rays; up to 17 in real heads
_OWN_REACH_DEG = 10.0
_HALF = 0.5
_CROSS = ndimage.generate_binary_structure(3, 1)


def without_lone(
    probability: Probability,
    seen: Mask,
    openings: Openings,
    frame: Frame,
    threshold: float,
    other: Other,
) -> Probability:
    """Return a prediction without parts that have no counterpart on the other side of the head.

    Above -15 degrees, rays distinguish defects from anatomy. Below, orbits have natural foramina
    and bone too thin to be visible in a scan, which a network may fill. A prediction there is
    therefore kept only within 20 degrees of an opening of the vault, and only where the head's
    mirror image has bone within a voxel. A defect across the midline is its own counterpart. There,
    the mirror image of the prediction counts as bone, but only within 10 degrees of an opening,
    because orbits and the base have natural openings on both sides. Takes 0.1 s at 64^3 plus the
    time of ``other``, and no time if nothing is predicted so low.

    Args:
        probability: Prediction of the network, ``(S, S, S)``.
        seen: Bone in the frame, same shape.
        openings: From `find_openings`.
        frame: The frame.
        threshold: Probability above which a voxel belongs to the implant.
        other: From `other_side`.
    """
    places = np.indices(seen.shape) - openings.middle[:, None, None, None]
    steep = np.tan(np.deg2rad(LOWEST_DEG))
    low = places[2] < steep * np.hypot(places[0], places[1])
    predicted = (probability > threshold) & ~seen
    if not (predicted & low).any():
        return probability
    bone, own = (
        ndimage.binary_dilation(
            mirrored(mask, frame.affine, other(), frame.affine, mask.shape) > _HALF, _CROSS
        )
        for mask in (seen, predicted)
    )
    counterpart = bone[low]
    counterpart |= own[low] & _near_openings(places[:, low].T, openings, _OWN_REACH_DEG)
    lone = low.copy()
    lone[low] = ~(counterpart & _near_openings(places[:, low].T, openings, _REACH_DEG))
    return np.where(lone, np.float32(0), probability)


def other_side(seen: Mask, frame: Frame) -> Other:
    """Return a function that returns the reflection of a head, computed once if needed.

    Args:
        seen: Bone in the frame, ``(S, S, S)``.
        frame: The frame.
    """
    return functools.cache(lambda: reflection(seen, frame.affine))


def _near_openings(places: Floats, openings: Openings, reach_deg: float) -> Mask:
    """Return which points, ``(M, 3)`` from the origin of the rays, are near a large opening."""
    large = [n for n, hole in enumerate(openings.found) if hole.area_cm2 >= SMALLEST_CM2]
    rays = openings.rays[np.isin(openings.label, large)]
    if not len(rays):
        return np.zeros(len(places), dtype=bool)
    away = np.linalg.norm(places, axis=1, keepdims=True)
    chord = 2 * np.sin(np.deg2rad(reach_deg) / 2)
    off, _ = KDTree(rays).query(places / away, distance_upper_bound=chord)
    return np.asarray(np.isfinite(off))
