"""Reading of solids from mesh files, and their voxels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from famseg.meshes._close import close_openings
from famseg.meshes._inside import inside
from famseg.meshes._load import load_mesh
from famseg.meshes._mesh import Mesh
from famseg.meshes._solid import is_manifold
from famseg.messages import InputError

_ENDINGS = (".stl", ".ply")


def read_mesh(path: Path | str) -> Mesh:
    """Read the surface of a solid from an STL or PLY file, text or binary.

    Coordinates are taken as mm, in the space that the file states (``SPACE=RAS`` or ``SPACE=LPS``
    in its header), else as LPS, as 3D Slicer writes them. Coincident vertices are merged; small or
    flat openings are closed; a surface that points inwards as a whole is flipped.

    Raises:
        InputError: If the file is missing or damaged, claims more data than it contains or than
            fits into memory, or is not the surface of a solid.
    """
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise InputError(f"{path}: not a mesh that can be read: {' and '.join(_ENDINGS)} can")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        vertices, found, _ = load_mesh(path)
        vertices, faces, _ = close_openings(vertices, found)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    faces[len(found) :] = _facing_as(found, faces[len(found) :])
    mesh = Mesh(vertices, faces.astype(np.int32))
    if mesh.volume_mm3 < 0:
        mesh = Mesh(mesh.vertices, mesh.faces[:, ::-1])
    valid, reason = is_manifold(mesh)
    if not valid:
        raise InputError(
            f"{path}: the mesh is not the surface of a solid: {reason}; repair it, e.g. in MeshLab "
            "or Meshmixer"
        )
    return mesh


def _facing_as(faces: NDArray[np.int64], lids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return triangles over openings oriented consistently with the faces at the rim."""
    many = int(max(faces.max(), lids.max(initial=0))) + 1
    edges = (faces * many + faces[:, [1, 2, 0]]).ravel()
    same_way = np.isin(lids[:, 0] * many + lids[:, 1], edges)  # same direction along the edge
    return np.where(same_way[:, None], lids[:, [1, 0, 2]], lids)


def voxelize(mesh: Mesh, shape: Sequence[int], affine: ArrayLike) -> NDArray[np.bool_]:
    """Return the voxels of a grid whose centers a mesh encloses.

    Args:
        mesh: A closed surface in world mm.
        shape: Voxels of the grid along three axes.
        affine: Maps voxel indices to world mm, shape ``(4, 4)``.

    Returns:
        A mask of the shape. Takes two bytes per voxel and time in proportion to the triangles'
        area.

    Raises:
        ValueError: If the mesh is not closed, or the shape has not three axes.
        InputError: If its triangles lie over one another hundreds of times.

    Example:
        >>> from famseg.meshes import surface_mesh
        >>> block = np.pad(np.ones((6, 6, 6), bool), 2)
        >>> mesh = surface_mesh(block, np.eye(4), smoothing_mm=0.5)
        >>> bool((voxelize(mesh, block.shape, np.eye(4)) == block).all())
        True
    """
    if len(shape) != 3:
        raise ValueError(f"shape must have three axes, got {tuple(shape)}")
    if len(mesh.faces) and not mesh.is_watertight:
        raise ValueError("the mesh is open: it has no inside; close it first")
    if len(mesh.faces) == 0:
        return np.zeros(tuple(shape), dtype=np.bool_)
    x, y, z = (int(count) for count in shape)
    mask, _ = inside(
        mesh.vertices, mesh.faces.astype(np.int64), np.asarray(affine, dtype=np.float64), (x, y, z)
    )
    return mask.view(np.bool_)
