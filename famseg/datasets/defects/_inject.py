"""Cutting of a defect through the vault of a skull.

A defect is a pure function of the state of its random generator. A body is evaluated only in its
bounding box, which takes 2 to 4 ms at 64^3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from famseg.datasets.defects._opening import open_region
from famseg.datasets.defects._region import RegionDefect, SkullBreakDefect
from famseg.datasets.defects._shapes import Body, BodyDefect, Defect
from famseg.datasets.defects._vault import vault_middle
from famseg.messages import InputError

_MAX_ATTEMPTS = 32
_RAYS_PER_ATTEMPT = 16
_MAX_WALL_MM = 20.0  # a longer path through bone is the base or the face, not the wall of the vault
_MARROW_MM = 5.0  # largest gap between the two tables of one wall
_MIN_BONE_VOXELS = 8
_MAX_BONE_SHARE = 0.5


class _Wall(NamedTuple):
    surface: NDArray[np.float64]  # voxel coordinates of the outermost bone on the ray
    outwards: NDArray[np.float64]  # unit vector of the ray
    depth_mm: float  # bone along the ray


class _Hole(NamedTuple):
    box: tuple[slice, ...]
    inside: NDArray[np.bool_]
    removed: int  # number of voxels of bone
    through: bool  # whether the body covers the whole wall


def inject(
    skull: NDArray[np.uint8],
    defect: Defect,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Cut one defect through the vault.

    The defect is centered where a random ray from the center of the vault leaves the bone, at an
    elevation that the defect allows. Rays without bone, as in a truncated vault, are drawn again. A
    draw is valid if the body covers the whole wall along that ray and removes at least 8 voxels but
    at most half of the bone. After 32 invalid draws, the one that removed most bone without
    removing more than half is used.

    A `RegionDefect` or `SkullBreakDefect` has a given area instead: it removes the whole wall, the
    removed bone is one piece (two for two openings), and no loose bone remains. Up to 32 draws are
    made, with another area after every 8.

    Args:
        skull: Complete skull, 0 and 1, shape ``(X, Y, Z)``, axes to the right, front and top.
        defect: Shape, size and position to draw from.
        spacing_mm: Edge of a voxel along each axis in mm.
        rng: Random generator; the same state gives the same defect.

    Returns:
        The skull with the defect (uint8) and the removed region (bool), including voxels without
        bone; the implant is ``skull & region``.

    Raises:
        InputError: If no draw met the vault, for example because the mask contains no skull or its
            top is missing.

    Example:
        >>> from famseg.datasets import SphereDefect, phantom
        >>> skull = phantom(subject=0, seed=0)
        >>> holed, region = inject(skull, SphereDefect(), (3.5,) * 3, np.random.default_rng(0))
        >>> bool((holed == skull * ~region).all()), bool(region.any())
        (True, True)
    """
    if skull.ndim != 3 or skull.dtype != np.uint8:
        raise InputError(f"inject: skull must be a 3D uint8 mask, got {skull.shape} {skull.dtype}")
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if isinstance(defect, (RegionDefect, SkullBreakDefect)):
        region = _open(skull, defect, spacing, rng)
        return skull * ~region, region
    hole = _draw(skull, defect, spacing, rng)
    region = np.zeros(skull.shape, dtype=bool)
    region[hole.box] = hole.inside
    defective = skull.copy()
    defective[hole.box][hole.inside] = 0
    return defective, region


def _open(
    skull: NDArray[np.uint8],
    defect: RegionDefect | SkullBreakDefect,
    spacing: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Return the region of the first class that fits the skull."""
    classes = [defect] if isinstance(defect, RegionDefect) else defect.draw_classes(rng)
    faults: list[str] = []
    for one in classes:
        try:
            return open_region(skull, one, spacing, rng).region
        except InputError as error:
            faults += error.faults
    raise InputError(*faults)


def _draw(
    skull: NDArray[np.uint8],
    defect: BodyDefect,
    spacing: NDArray[np.float64],
    rng: np.random.Generator,
) -> _Hole:
    """Return the first valid defect, or the best of all draws."""
    middle = vault_middle(skull)
    bone = int(np.count_nonzero(skull))
    best: _Hole | None = None
    for _ in range(_MAX_ATTEMPTS):
        wall = _find_wall(skull, middle, spacing, defect.elevation_deg, rng)
        if wall is None:
            continue
        hole = _cut(skull, wall, defect.draw(rng, wall.outwards), spacing)
        if hole.removed == 0 or hole.removed > _MAX_BONE_SHARE * bone:
            continue
        if hole.through and hole.removed >= _MIN_BONE_VOXELS:
            return hole
        if best is None or hole.removed > best.removed:
            best = hole
    if best is None:
        raise InputError(
            f"no defect through the vault in {_MAX_ATTEMPTS} draws ({bone} voxels of bone): look "
            "at the mask, or change elevation_deg or size_mm of the defect"
        )
    return best


def _find_wall(
    skull: NDArray[np.uint8],
    middle: NDArray[np.float64],
    spacing: NDArray[np.float64],
    elevation_deg: tuple[float, float],
    rng: np.random.Generator,
) -> _Wall | None:
    """Find the wall on a random ray; None if several rays miss it.

    Directions are uniform on the band of the sphere between the two elevations.
    """
    sines = np.sin(np.deg2rad(elevation_deg))
    up = rng.uniform(sines[0], sines[1], size=_RAYS_PER_ATTEMPT)
    around = rng.uniform(0, 2 * np.pi, size=_RAYS_PER_ATTEMPT)
    flat = np.sqrt(1 - up**2)
    rays = np.stack([flat * np.cos(around), flat * np.sin(around), up], axis=1)
    step = float(spacing.min()) / 2
    reach = float(np.linalg.norm(np.array(skull.shape) * spacing))
    places = middle + rays[:, None, :] * np.arange(0, reach, step)[:, None] / spacing
    index = np.rint(places).astype(np.intp)
    valid = ((index >= 0) & (index < skull.shape)).all(axis=-1)
    i, j, k = np.where(valid[..., None], index, 0).transpose(2, 0, 1)
    bone = np.logical_and(skull[i, j, k] != 0, valid)
    for ray in np.flatnonzero(bone.any(axis=1)):
        hits = np.flatnonzero(bone[ray])
        gaps = np.flatnonzero((np.diff(hits) - 1) * step > _MARROW_MM)
        inner = hits[gaps[-1] + 1] if gaps.size else hits[0]
        depth = float((hits[-1] - inner) * step)
        if depth <= _MAX_WALL_MM:
            return _Wall(places[ray, hits[-1]], rays[ray], depth)
    return None


def _cut(skull: NDArray[np.uint8], wall: _Wall, body: Body, spacing: NDArray[np.float64]) -> _Hole:
    """Return the defect of a body centered on the outer surface."""
    reach = body.reach_mm / spacing
    low = np.clip(np.floor(wall.surface - reach).astype(int), 0, skull.shape)
    high = np.clip(np.ceil(wall.surface + reach).astype(int) + 1, 0, skull.shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    axes = [
        (np.arange(a, b) - c) * s
        for a, b, c, s in zip(low, high, wall.surface, spacing, strict=True)
    ]
    inside = body.inside(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1))
    removed = int(np.count_nonzero(inside & (skull[box] != 0)))
    inwards = -wall.outwards * np.linspace(0, wall.depth_mm, 16)[:, None]
    return _Hole(box, inside, removed, bool(body.inside(inwards).all()))
