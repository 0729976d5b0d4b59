"""Solids with analytic shapes on any grid, and their exact properties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from famseg.meshes import Mesh

Floats = NDArray[np.float64]
Inside = Callable[[Floats], NDArray[np.bool_]]

CT = (0.45, 0.45, 1.0)


@dataclass(frozen=True)
class Cap:
    """A part of a spherical shell around the origin, as an implant of the vault is."""

    inner_mm: float = 80.0
    outer_mm: float = 86.0
    angle: float = 0.3
    axis: tuple[float, float, float] = (0.525, 0.21, 0.825)

    @property
    def unit(self) -> Floats:
        return np.array(self.axis) / np.linalg.norm(self.axis)

    @property
    def volume_mm3(self) -> float:
        share = 2 * np.pi * (1 - np.cos(self.angle))
        return float(share * (self.outer_mm**3 - self.inner_mm**3) / 3)

    def __call__(self, points: Floats) -> NDArray[np.bool_]:
        radius = np.linalg.norm(points, axis=-1)
        wide = points @ self.unit >= radius * np.cos(self.angle)
        return (radius >= self.inner_mm) & (radius <= self.outer_mm) & wide

    def grid(
        self, spacing: tuple[float, float, float], *, turned: Floats | None = None
    ) -> tuple[NDArray[np.bool_], Floats]:
        """Return the mask on a grid around the cap, and its affine."""
        middle = (self.inner_mm + self.outer_mm) / 2 * self.unit
        return grid(self, middle, 2 * self.outer_mm * np.sin(self.angle) + 6, spacing, turned)

    def normal_deviation_deg(self, mesh: Mesh, margin: float = 0.06) -> Floats:
        """Return the angle between face normals and the sphere's normals, away from the rim."""
        middle = mesh.vertices[mesh.faces].mean(axis=1)
        radius = np.linalg.norm(middle, axis=1)
        away = middle / radius[:, None]
        kept = away @ self.unit > np.cos(self.angle - margin)
        way = np.where(radius > (self.inner_mm + self.outer_mm) / 2, 1.0, -1.0)
        vectors = mesh.area_vectors_mm2
        cosine = (vectors * away).sum(axis=1) * way / np.linalg.norm(vectors, axis=1)
        return np.degrees(np.arccos(np.clip(cosine[kept], -1, 1)))


def grid(
    solid: Inside,
    middle: Floats,
    wide_mm: float,
    spacing: tuple[float, float, float],
    turned: Floats | None = None,
) -> tuple[NDArray[np.bool_], Floats]:
    """Return a mask of a solid on a grid around a point, and its affine."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turned is None else turned) * np.array(spacing)
    shape = np.ceil(wide_mm / np.linalg.norm(affine[:3, :3], axis=0)).astype(int) + 2
    affine[:3, 3] = middle - affine[:3, :3] @ ((shape - 1) / 2)
    places = np.moveaxis(np.indices(tuple(shape)), 0, -1)
    return solid(places @ affine[:3, :3].T + affine[:3, 3]), affine
