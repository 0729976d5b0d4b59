"""Compares what a network adds below the vault with the vault and the head's other side."""

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

_REACH_DEG = 20.0  # of a defect below the part of it that rays see: on real heads up to 17
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
    """Return a prediction without what has no counterpart on the other side of the head.

    Above -15 degrees rays tell defects from anatomy. Below, orbits have natural openings and bone
    too thin for a scan to show, which a network may fill. Two things tell them from a defect: what
    is predicted stays within 20 degrees of an opening of the vault, and where the head's mirror
    image has bone within a voxel. A defect across the midline is its own counterpart: there, the
    mirror image of the prediction counts as bone, but only within 10 degrees of an opening, as
    orbits and the base have openings of their own on both sides. Takes 0.1 s at 64^3 and what
    ``other`` takes, nothing where nothing is predicted so low.

    Args:
        probability: Of the network, ``(S, S, S)``.
        seen: Bone in the frame, same shape.
        openings: From `find_openings`.
        frame: The frame.
        threshold: From which probability on a voxel belongs to the implant.
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
    """Return how a head is mirrored, to be asked for when it is needed; found once.

    Args:
        seen: Bone in the frame, ``(S, S, S)``.
        frame: The frame.
    """
    return functools.cache(lambda: reflection(seen, frame.affine))


def _near_openings(places: Floats, openings: Openings, reach_deg: float) -> Mask:
    """Return which places, ``(M, 3)`` from the middle of the rays, are near a large opening."""
    large = [n for n, hole in enumerate(openings.found) if hole.area_cm2 >= SMALLEST_CM2]
    rays = openings.rays[np.isin(openings.label, large)]
    if not len(rays):
        return np.zeros(len(places), dtype=bool)
    away = np.linalg.norm(places, axis=1, keepdims=True)
    chord = 2 * np.sin(np.deg2rad(reach_deg) / 2)
    off, _ = KDTree(rays).query(places / away, distance_upper_bound=chord)
    return np.asarray(np.isfinite(off))
