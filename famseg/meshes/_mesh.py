"""A triangle mesh in world mm, with its volume, area and bounds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Faces = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles.

    Args:
        vertices: Points in world mm, RAS+ as the affine of nibabel gives them, shape ``(n, 3)``.
        faces: Indices of three vertices each, counterclockwise seen from outside, shape ``(m, 3)``.

    Raises:
        ValueError: If the shapes are different, a coordinate is not finite, or a face names a
            vertex that does not exist.

    Example:
        >>> corners = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
        >>> tetrahedron = Mesh(corners, [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
        >>> round(tetrahedron.volume_mm3, 4), tetrahedron.is_watertight
        (0.1667, True)
    """

    vertices: Floats
    faces: Faces

    def __post_init__(self) -> None:
        vertices = np.ascontiguousarray(self.vertices, dtype=np.float64).view()
        faces = np.ascontiguousarray(self.faces, dtype=np.int32).view()
        if vertices.ndim != 2 or vertices.shape[1] != 3:
            raise ValueError(f"vertices must have shape (n, 3), got {vertices.shape}")
        if faces.ndim != 2 or faces.shape[1] != 3:
            raise ValueError(f"faces must have shape (m, 3), got {faces.shape}")
        if not np.isfinite(vertices).all():
            raise ValueError("vertices must be finite: some are NaN or infinite")
        if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
            raise ValueError(f"faces refer to vertices beyond the {len(vertices)} that there are")
        vertices.flags.writeable = faces.flags.writeable = False
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces)

    def __repr__(self) -> str:
        return f"Mesh({len(self.vertices)} vertices, {len(self.faces)} faces)"

    @cached_property
    def volume_mm3(self) -> float:
        """The enclosed volume; negative if the faces point inwards."""
        return float(self._tetrahedra.sum())

    @cached_property
    def area_mm2(self) -> float:
        """The area of all triangles."""
        return float(np.linalg.norm(self.area_vectors_mm2, axis=1).sum())

    @property
    def area_vectors_mm2(self) -> Floats:
        """The outward normal of each face, as long as the face is large, shape ``(m, 3)``."""
        a, b, c = self._corners
        return np.asarray(np.cross(b - a, c - a) / 2)

    @cached_property
    def bounds_mm(self) -> Floats:
        """The lowest and the highest coordinates of vertices that faces use, shape ``(2, 3)``.

        Raises:
            ValueError: If the mesh has no faces.
        """
        if len(self.faces) == 0:
            raise ValueError("an empty mesh has no bounds")
        used = self.used_vertices
        return np.stack([used.min(axis=0), used.max(axis=0)])

    @property
    def used_vertices(self) -> Floats:
        """The vertices that faces use, in their order."""
        used = np.zeros(len(self.vertices), dtype=np.bool_)
        used[self.faces] = True
        return self.vertices[used]

    @cached_property
    def centroid_mm(self) -> Floats:
        """The center of mass of the enclosed volume, shape ``(3,)``; of the bounds if it is 0.

        Raises:
            ValueError: If the mesh has no faces.
        """
        middle = self.bounds_mm.mean(axis=0)
        volume = self._tetrahedra
        if volume.sum() == 0:
            return np.asarray(middle)
        # A tetrahedron's center is the mean of its corners, the fourth of which is `middle`.
        corners = sum((corner - middle for corner in self._corners), np.zeros(3)) / 4
        return np.asarray(middle + (volume @ corners) / volume.sum())

    @cached_property
    def is_watertight(self) -> bool:
        """Whether each edge has as many triangles on one side of it as on the other, not none.

        This is so if the surface is closed and its triangles agree on which side is outside.
        """
        if len(self.faces) == 0:
            return False
        start = self.faces.astype(np.int64)
        end = start[:, [1, 2, 0]]
        many = len(self.vertices)
        there, back = (start * many + end).ravel(), (end * many + start).ravel()
        there.sort()
        back.sort()
        return bool(np.array_equal(there, back))

    @property
    def _corners(self) -> tuple[Floats, Floats, Floats]:
        first, second, third = self.faces.T
        return self.vertices[first], self.vertices[second], self.vertices[third]

    @property
    def _tetrahedra(self) -> Floats:
        """Return signed volumes between each face and a point, best a central one."""
        if len(self.faces) == 0:
            return np.zeros(0)
        middle = self.bounds_mm.mean(axis=0)
        a, b, c = (corner - middle for corner in self._corners)
        return np.asarray(np.einsum("ij,ij->i", a, np.cross(b, c)) / 6)


def joined(meshes: Iterable[Mesh]) -> Mesh:
    """Return all triangles of several meshes as one mesh, unchanged."""
    parts = list(meshes)
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    return Mesh(
        np.concatenate([np.zeros((0, 3)), *(part.vertices for part in parts)]),
        np.concatenate(
            [
                np.zeros((0, 3), dtype=np.int32),
                *(part.faces + start for part, start in zip(parts, starts, strict=False)),
            ]
        ),
    )
