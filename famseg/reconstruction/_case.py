"""Measures of a reconstruction: symmetry of the result, and confidence in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from famseg.preparation.steps import dome_rays, first_bone, moved_points
from famseg.reconstruction._frame import Vault

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

LOW_CONFIDENCE, FAIR_CONFIDENCE = 0.6, 0.75
"""Implant DSC to be expected below which a case is called low, and below which fair."""

_AT_ORBIT = 0.53  # highest confidence at an orbit
_SYMMETRY_RAYS = 4  # every fourth ray of the check of the vault, 1,500 in total
_ABOVE_DEG = 0.0  # orbits, face and base are not part of the symmetry
_NEIGHBORS = 12  # number of points for fitting a normal
_ROUNDS = 20
_TRIMMED = 0.9  # share of the nearest pairs used, which excludes injuries of the other side


class Asymmetry(NamedTuple):
    """Distance of a vault from its own mirror image.

    Args:
        mean_mm: Mean distance between its inner surface and that of the mirror image.
        p95_mm: The 95th percentile.
    """

    mean_mm: float
    p95_mm: float


def asymmetry(completed: Mask, affine: Floats, vault: Vault) -> Asymmetry:
    """Measure the distance of the inner surface of a vault from its own mirror image.

    The surface consists of the points where 1,500 rays from the center of the vault, above the
    horizontal, meet bone. It is mirrored left to right, aligned to itself by a rigid motion
    (point-to-plane ICP with the nearest 90 % of the pairs), and distances are measured along the
    surface's normals. Intact heads have 0.7 to 2 mm.

    Args:
        completed: The completed skull, axes roughly to the right, front and top.
        affine: Maps its indices to mm.
        vault: From `famseg.reconstruction.fit_vault`.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    to_index: Floats = np.asarray(np.linalg.inv(affine), dtype=np.float64)
    middle = moved_points(vault.middle_mm[None], to_index)[0]
    rays = dome_rays(_ABOVE_DEG)[::_SYMMETRY_RAYS]
    radius = first_bone(completed.view(np.uint8), middle, rays, edges)
    met = np.isfinite(radius)
    points = moved_points(middle + rays[met] * radius[met, None] / edges, affine)
    tree = KDTree(points)
    normals = _normals(points, tree)
    mirrored = points * [-1, 1, 1] + [2 * vault.middle_mm[0], 0, 0]
    for _ in range(_ROUNDS):
        off, near = tree.query(mirrored)
        kept = off <= np.quantile(off, _TRIMMED)
        mirrored = _towards(mirrored, mirrored[kept], points[near[kept]], normals[near[kept]])
    _, near = tree.query(mirrored)
    off = np.abs(np.einsum("ij,ij->i", mirrored - points[near], normals[near]))
    return Asymmetry(float(off.mean()), float(np.percentile(off, 95)))


def _normals(points: Floats, tree: KDTree) -> Floats:
    _, near = tree.query(points, k=min(_NEIGHBORS, len(points)))
    around = points[near] - points[near].mean(axis=1, keepdims=True)
    return np.asarray(np.linalg.svd(around, full_matrices=False)[2][:, -1])


def _towards(moved: Floats, source: Floats, target: Floats, normals: Floats) -> Floats:
    """Return points after the small rigid motion that best aligns ``source`` to tangent planes."""
    middle = source.mean(axis=0)
    off = np.einsum("ij,ij->i", target - source, normals)
    rows = np.concatenate([np.cross(source - middle, normals), normals], axis=1)
    turn, shift = np.split(np.linalg.lstsq(rows, off, rcond=None)[0], 2)
    rotated = Rotation.from_rotvec(turn).apply(moved - middle)
    return np.asarray(rotated + middle + shift)


def confidence_level(confidence: float) -> str:
    """Return a confidence in words.

    Example:
        >>> [confidence_level(value) for value in (0.3, 0.7, 0.9)]
        ['low', 'fair', 'high']
    """
    if confidence < LOW_CONFIDENCE:
        return "low"
    return "fair" if confidence < FAIR_CONFIDENCE else "high"


def held_at_orbit(confidence: float, methods: Sequence[str]) -> float:
    """Return a confidence that is low if a piece has a wall that is not a single layer.

    The agreement of predictions means little there: implants at the orbits of the real heads on
    which settings were chosen have a DSC of 0.62 ± 0.09 (n = 4), regardless of the agreement. The
    bound is one standard deviation below this mean.

    Example:
        >>> held_at_orbit(0.8, ["residual thin plate"]), held_at_orbit(0.8, ["vote"])
        (0.8, 0.53)
    """
    single = all(method == "residual thin plate" for method in methods)
    return confidence if single else min(confidence, _AT_ORBIT)


def rounded(value: Any, digits: int = 4) -> Any:  # noqa: ANN401 - JSON types
    """Return JSON types with rounded numbers, in which values that are not finite become None.

    Example:
        >>> rounded({"a": 0.123456, "b": [float("nan"), np.float32(2)]})
        {'a': 0.1235, 'b': [None, 2.0]}
    """
    if isinstance(value, dict):
        return {str(key): rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(each, digits) for each in value]
    if isinstance(value, float | np.floating):
        return round(float(value), digits) + 0.0 if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
