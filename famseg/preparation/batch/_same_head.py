"""Detection of the same head in another pose, by rigid alignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from famseg.datasets import phantom
from famseg.messages import InputError
from famseg.preparation.batch._leakage import Duplicate, spread
from famseg.preparation.steps import Points, distance_mm, moved_points, surface_points, to_ras
from famseg.volumes import Volume, read_volume

SAME_HEAD_DICE = 0.94
"""Dice after alignment at or above which two heads are the same; see `docs/prepare.md`."""

_CELL_MM = 3.0
_BORDER_MM = 24.0
_BLUR_MM = 2.5  # sigma: makes voxels of 1 to 4 mm comparable
_LEAST = 0.02  # share of bone above which a cell is compared
_REACH_MM = 20.0  # surfaces farther away have no influence
_FAR_MM = 6.0  # beyond this, a point loses weight: it may belong to a jaw, a defect or a frame
_UNLIKE = 0.15  # share of bone beyond which a point loses weight when densities are compared
_ITERATIONS = 25
_PITCHES_DEG = (-15.0, 0.0, 15.0)  # initial poses: nodding varies most
_LARGEST_TURN = 0.15  # radians per step
_DONE_MM = 0.03
_HEAD_MM = 80.0  # typical distance of a point from the center of rotation
_MARGIN_MM = 6.0  # above the lowest bone of a head, below which it was cut off
_NEIGHBORS = 5  # neighbors of each head that are compared in detail
_LIKELY_DICE = 0.8  # similarity of two heads below which they are not compared
_LEAST_SHARE = 0.4  # share of each head's bone that must lie where both were scanned
_LOOK_MM = 8.0
_HELD = 64  # number of heads kept in memory

Motion = NDArray[np.float64]
Cells = NDArray[np.float32]


class Field(NamedTuple):
    """A quantity on cells of 3 mm with its gradient.

    Args:
        values: The quantity and its slope along each axis, four arrays.
        corner: Center of the first cell in mm.
        outside: Mode of extrapolation beyond the cells: the value at their border, or 0.
    """

    values: tuple[Cells, ...]
    corner: NDArray[np.float64]
    outside: Literal["nearest", "constant"]

    @classmethod
    def of(
        cls,
        quantity: NDArray[np.floating],
        corner: NDArray[np.float64],
        outside: Literal["nearest", "constant"],
    ) -> Field:
        """Create a field from a quantity by adding its slopes."""
        slopes = [np.gradient(quantity, _CELL_MM, axis=axis) for axis in range(3)]
        return cls(tuple(f.astype(np.float32) for f in (quantity, *slopes)), corner, outside)

    def at(self, places: Points) -> NDArray[np.float64]:
        """Return the quantity at points of shape ``(N, 3)``."""
        return self._sampled(0, places)

    def slope(self, places: Points) -> Points:
        """Return its gradient at points, shape ``(N, 3)``."""
        return np.stack([self._sampled(axis, places) for axis in (1, 2, 3)], axis=1)

    def _sampled(self, which: int, places: Points) -> NDArray[np.float64]:
        index = ((places - self.corner) / _CELL_MM).T
        found = ndimage.map_coordinates(
            self.values[which], index, output=np.float64, order=1, mode=self.outside
        )
        return np.asarray(found)


class Head(NamedTuple):
    """A head in the form in which it is compared.

    Args:
        surface: Points on its surface in mm, ``(N, 3)``.
        distance: Distance to the surface in mm, at most 20.
        cells: Centers of the cells that contain bone, in mm, ``(M, 3)``.
        shares: Share of bone in these cells, blurred.
        density: The shares as a field.
        ends_mm: Heights of the lowest and the highest bone.
    """

    surface: Points
    distance: Field
    cells: Points
    shares: NDArray[np.float64]
    density: Field
    ends_mm: tuple[float, float]


def as_head(volume: Volume) -> Head:
    """Return the head of a mask, in which values above half of its maximum are bone.

    Raises:
        ValueError: If it is empty.
    """
    ras = to_ras(volume)
    mask = np.asarray(ras.array > max(float(ras.array.max()), 1e-9) / 2)
    if not mask.any():
        raise ValueError("no bone")
    surface = surface_points(mask, ras.affine)
    corner = surface.min(axis=0) - _BORDER_MM
    ends = np.ceil((surface.max(axis=0) + _BORDER_MM - corner) / _CELL_MM)
    shape = tuple(int(n) + 1 for n in ends)
    near = np.zeros(shape, dtype=bool)
    near[tuple(np.rint((surface - corner) / _CELL_MM).astype(int).T)] = True
    distance = np.clip(distance_mm(near, [_CELL_MM] * 3), 0, _REACH_MM)
    distance = ndimage.gaussian_filter(distance, 0.7)  # smooths the kink at the surface
    bone = moved_points(np.argwhere(mask), ras.affine)
    voxel_mm3 = abs(float(np.linalg.det(ras.affine[:3, :3])))
    shares = spread((bone - corner) / _CELL_MM, shape) * (voxel_mm3 / _CELL_MM**3)
    shares = ndimage.gaussian_filter(shares, _BLUR_MM / _CELL_MM)
    index = np.argwhere(shares > _LEAST)
    return Head(
        _some(surface, 1500),
        Field.of(distance, corner, "nearest"),
        index * _CELL_MM + corner,
        shares[tuple(index.T)],
        Field.of(shares, corner, "constant"),
        (float(bone[:, 2].min()), float(bone[:, 2].max())),
    )


def aligned(moving: Head, fixed: Head) -> Motion:
    """Return the rigid motion that aligns one head to another, shape ``(4, 4)``.

    Initially, the vertices and the centers of the vaults coincide, in three poses that differ by
    nodding. Then the distances of the moving surface to the fixed one are minimized, which finds
    the pose to about a degree if it is at most 20 degrees away. Takes about 60 ms.
    """
    lowest = fixed.ends_mm[0] + _MARGIN_MM / 2

    def residuals(places: Points) -> tuple[NDArray[np.float64], Points, NDArray[np.bool_]]:
        return fixed.distance.at(places), fixed.distance.slope(places), places[:, 2] > lowest

    found = []
    for pitch in _PITCHES_DEG:
        start = np.eye(4)
        start[:3, :3] = Rotation.from_euler("x", pitch, degrees=True).as_matrix()
        start[:3, 3] = _top(fixed.surface) - _top(moved_points(moving.surface, start))
        motion = _minimized(moving.surface, start, residuals, _FAR_MM, friction=1e-3)
        distance, _, counts = residuals(moved_points(moving.surface, motion))
        # Points below the cut count as far away. Otherwise, rotating a head out of view would
        # reduce the distance.
        found.append((float(np.where(counts, distance, _FAR_MM).mean()), motion))
    return min(found, key=lambda f: f[0])[1]


def refined(moving: Head, fixed: Head, motion: Motion) -> Motion:
    """Return the motion that minimizes the difference of the densities.

    This is accurate to a fraction of a voxel, whereas alignment by surfaces is accurate to about
    one voxel. Takes about 60 ms.
    """
    both = np.flatnonzero(moving.cells[:, 2] > moving.ends_mm[0] + _MARGIN_MM)
    chosen = _some(both, 8000)
    cells, shares = moving.cells[chosen], moving.shares[chosen]

    def residuals(places: Points) -> tuple[NDArray[np.float64], Points, NDArray[np.bool_]]:
        differences = fixed.density.at(places) - shares
        return differences, fixed.density.slope(places), _scanned(places, fixed)

    return _minimized(cells, motion, residuals, _UNLIKE, friction=1e-7)


def agreement(moving: Head, fixed: Head, motion: Motion) -> float:
    """Return the Dice of the blurred bone of two heads after a motion, where both were scanned.

    Bone below the lowest or above the highest bone of the other head is ignored, since it may have
    been cut off there. The result is 0 if less than 40 % of either head remains.
    """
    there = moved_points(moving.cells, motion)
    back = moved_points(fixed.cells, np.asarray(np.linalg.inv(motion)))
    ours = _scanned(there, fixed) & _scanned(moving.cells, moving)
    theirs = _scanned(back, moving) & _scanned(fixed.cells, fixed)
    one, other = moving.shares[ours], fixed.shares[theirs]
    left = one.sum() / moving.shares.sum(), other.sum() / fixed.shares.sum()
    if min(left) < _LEAST_SHARE:
        return 0.0
    shared = one @ fixed.density.at(there[ours]) + other @ moving.density.at(back[theirs])
    return float(shared / (one @ one + other @ other))


def heads_and_pairs(count: int) -> int:
    """Return the number of steps of `same_heads`: heads plus pairs of neighbors."""
    return count * (1 + _NEIGHBORS // 2)


def same_heads(
    files: Mapping[str, Path],
    known: Mapping[str, str],
    *,
    threshold: float = SAME_HEAD_DICE,
    progress: Callable[[int, int], None] | None = None,
) -> list[Duplicate]:
    """Find scans of the same head in different poses.

    All heads are aligned to a phantom, which brings the scans of one person close together. Each
    head is then aligned to the five most similar ones and compared with them.

    Args:
        files: The mask of each subject.
        known: What stands for each subject; pairs with the same are left out, as they are known.
        threshold: Dice after alignment from which on two are one.
        progress: Called with the progress and its end; their ratio is the share of the work done.

    Returns:
        Pairs in the order of their names. Takes about 0.2 s per subject and 0.3 s per pair, and 4
        MB for each of at most 64 heads in memory.

    Raises:
        InputError: If a file cannot be read or contains no bone.
    """
    atlas = _atlas()
    held = lru_cache(_HELD)(lambda name: _read(name, files[name]))
    names, total = sorted(files), heads_and_pairs(len(files))
    looks: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for count, name in enumerate(names, start=1):
        looks.append(_look(held(name), atlas))
        if progress is not None:
            progress(count, total)
    pairs = _likely(*(np.stack(each) for each in zip(*looks, strict=True))) if names else []
    found = []
    for count, (i, j) in enumerate(pairs, start=1):
        first, second = names[i], names[j]
        if known.get(first, first) != known.get(second, second):
            dice = _best(held(first), held(second), threshold)
            if dice >= threshold:
                found.append(Duplicate(first, second, dice, "same head"))
        if progress is not None:
            progress(len(names) + count * (total - len(names)) // len(pairs), total)
    return found


@cache
def _atlas() -> Head:
    """Return the head to which all others are aligned."""
    return as_head(Volume(phantom(0, 0, 64), np.diag([3.5, 3.5, 3.5, 1.0])))


def _read(name: str, file: Path) -> Head:
    try:
        return as_head(read_volume(file))
    except ValueError:
        raise InputError(f"{name}: {file}: contains no bone: remove it from the manifest") from None


def _best(one: Head, other: Head, enough: float) -> float:
    """Return the agreement of two heads, the better of aligning either one to the other.

    The second alignment is left out if the first reaches ``enough``.
    """
    found = 0.0
    for moving, fixed in ((one, other), (other, one)):
        motion = refined(moving, fixed, aligned(moving, fixed))
        found = max(found, agreement(moving, fixed, motion))
        if found >= enough:
            break
    return found


def _minimized(
    points: Points,
    start: Motion,
    residuals: Callable[[Points], tuple[NDArray[np.float64], Points, NDArray[np.bool_]]],
    scale: float,
    *,
    friction: float,
) -> Motion:
    """Return the rigid motion of points that minimizes the residuals, by Gauss-Newton steps.

    Weights decrease with the residual (Geman-McClure), so that parts present in only one head have
    little influence.

    Args:
        points: The points to move, ``(N, 3)``.
        start: Initial motion.
        residuals: Function of points that returns the residual, its slope, and whether it counts.
        scale: Residual above which a point loses weight.
        friction: Damping of the motion per point, so that a section of a sphere does not slide.
    """
    turn, shift = start[:3, :3], start[:3, 3]
    held = np.diag([1e3, 1e3, 1e3, 1.0, 1.0, 1.0]) * friction * len(points)
    for _ in range(_ITERATIONS):
        places = points @ turn.T + shift
        value, slope, counts = residuals(places)
        weight = counts * (1 + (value / scale) ** 2) ** -2.0
        middle = places.mean(axis=0)
        moves = np.concatenate([np.cross(places - middle, slope), slope], axis=1)
        weighted = (moves * weight[:, None]).T
        step = np.linalg.solve(weighted @ moves + held, -weighted @ value)
        angle = float(np.linalg.norm(step[:3]))
        step[:3] *= min(1.0, _LARGEST_TURN / max(angle, 1e-12))
        more = Rotation.from_rotvec(step[:3]).as_matrix()
        turn, shift = more @ turn, more @ (shift - middle) + middle + step[3:]
        if max(angle * _HEAD_MM, float(np.linalg.norm(step[3:]))) < _DONE_MM:
            break
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = turn, shift
    return motion


def _some(items: NDArray[Any], count: int) -> NDArray[Any]:
    """Return at most ``count`` of the items, evenly spaced."""
    few = np.random.default_rng(0).permutation(len(items))[:count]
    return items[np.sort(few)]


def _top(surface: Points) -> NDArray[np.float64]:
    """Return the center of a vault at the height of its vertex."""
    top = surface[:, 2].max()
    upper = surface[surface[:, 2] >= top - 90]
    return np.array([*((upper.min(axis=0) + upper.max(axis=0)) / 2)[:2], top])


def _scanned(places: Points, head: Head) -> NDArray[np.bool_]:
    lowest, highest = head.ends_mm
    return np.asarray((places[:, 2] > lowest + _MARGIN_MM) & (places[:, 2] < highest + 1))


def _look(head: Head, atlas: Head) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the density of a head in the frame of the atlas, at points 8 mm apart.

    Returns:
        The density, and a mask that is 1 where the head was scanned; both have shape ``(K,)``.
    """
    low, high = atlas.cells.min(axis=0) - _LOOK_MM, atlas.cells.max(axis=0) + _LOOK_MM
    axes = [np.arange(a, b, _LOOK_MM) for a, b in zip(low, high, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    back = moved_points(places, np.asarray(np.linalg.inv(aligned(head, atlas))))
    scanned = _scanned(back, head).astype(np.float32)
    return head.density.at(back).astype(np.float32) * scanned, scanned


def _alike(looks: NDArray[np.float32], scanned: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Dice of each pair of coarse heads in the region where both were scanned."""
    squares = looks**2 @ scanned.T
    return np.asarray(2 * (looks @ looks.T) / np.maximum(squares + squares.T, 1e-9))


def _likely(looks: NDArray[np.float32], scanned: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return the pairs in which one head is among the most similar ones to the other."""
    dice = _alike(looks, scanned)
    np.fill_diagonal(dice, -1)
    nearest = np.argsort(-dice, axis=1)[:, : min(_NEIGHBORS, len(looks) - 1)]
    return sorted(
        {
            (min(i, int(j)), max(i, int(j)))
            for i, js in enumerate(nearest)
            for j in js
            if dice[i, j] >= _LIKELY_DICE
        }
    )
