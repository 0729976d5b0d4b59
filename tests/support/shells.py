"""Skulls of known shape: shells of ellipsoids, cut by a plane, on any grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

OUTER_MM = np.array([72.0, 90.0, 70.0])
WALL_MM = 7.0


def grid(
    spacing_mm: tuple[float, float, float], turn: NDArray[np.float64] | None = None
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Return shape and affine of a grid around a shell, its axes turned by a rotation."""
    turn = np.eye(3) if turn is None else turn
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(spacing_mm)
    reach = np.abs(turn.T) @ (OUTER_MM + 14)
    x, y, z = np.ceil(2 * reach / spacing_mm).astype(int)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array([x, y, z]) - 1) / 2)
    return (int(x), int(y), int(z)), affine


def points(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the middles of voxels in mm, ``(X, Y, Z, 3)``."""
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def shell(where: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the wall of an ellipsoid above a plane through its lower half."""
    outer = ((where / OUTER_MM) ** 2).sum(axis=-1) <= 1
    inner = ((where / (OUTER_MM - WALL_MM)) ** 2).sum(axis=-1) <= 1
    return outer & ~inner & (where[..., 2] > -45)


def hole(where: NDArray[np.float64], toward: tuple[float, float, float], deg: float):
    """Return a cone of directions from the middle."""
    ahead = np.array(toward) / np.linalg.norm(toward)
    away = np.maximum(np.linalg.norm(where, axis=-1), 1e-9)
    return (where @ ahead) / away > np.cos(np.radians(deg))
