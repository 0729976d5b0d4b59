"""Atomic writing of meshes as STL, PLY, 3MF and MZ3, with reproducible bytes."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from famseg.files import write_atomically
from famseg.meshes._mesh import Mesh, joined
from famseg.meshes._three_mf import three_mf

Space = Literal["RAS", "LPS"]
Parts = Mapping[str, Mesh]

_MOST_FACES = 2**31 - 1


def write_mesh(path: Path | str, mesh: Mesh | Parts, *, space: Space = "RAS") -> None:
    """Write a mesh, or several parts, to a file in the format of its suffix.

    ========  =====================================================================================
    ``.stl``  binary; parts become one surface; the header says ``SPACE=RAS UNIT=mm``
    ``.ply``  binary; parts become one surface; comments say ``SPACE=RAS`` and ``UNIT=mm``
    ``.3mf``  millimeters are a part of the format; each part is an object with its name
    ``.mz3``  compressed, as NiiVue and Surf Ice read it; always RAS
    ========  =====================================================================================

    Coordinates are rounded to float32 (3MF: 0.1 micrometers). The same meshes give the same bytes.

    Args:
        path: The file; it is replaced at once and only when everything is written.
        mesh: A mesh in world mm (RAS+), or parts by name.
        space: Axes of the coordinates in the file. 3D Slicer respects the file's statement; other
            programs may ignore it.

    Raises:
        ValueError: If the suffix is not supported, there is nothing to write, a name is invalid in
            XML, or MZ3 is to be written in LPS.
        OSError: If the file cannot be written; an old one stays.
    """
    path = Path(path)
    write = _FORMATS.get(path.suffix.lower())
    if write is None:
        raise ValueError(
            f"{path.name}: meshes are written as {', '.join(_FORMATS)}: choose one of these endings"
        )
    parts = {"mesh": mesh} if isinstance(mesh, Mesh) else dict(mesh)
    empty = [name for name, part in parts.items() if len(part.faces) == 0]
    if empty or not parts:
        raise ValueError(f"{path.name}: nothing to write: {', '.join(empty) or 'no mesh'} is empty")
    if sum(len(part.faces) for part in parts.values()) > _MOST_FACES:
        raise ValueError(f"{path.name}: more than {_MOST_FACES} faces: simplify the mesh first")
    if space == "LPS":
        parts = {name: _turned(part) for name, part in parts.items()}
    write_atomically(path, write(parts, space))


def _turned(mesh: Mesh) -> Mesh:
    """Return a mesh converted from RAS to LPS, by a rotation that keeps its handedness."""
    return Mesh(mesh.vertices * [-1, -1, 1], mesh.faces)


def _stl(parts: Parts, space: Space) -> bytes:
    mesh = joined(parts.values())
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    triangles = np.zeros(len(mesh.faces), dtype=record)
    vectors = mesh.area_vectors_mm2
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    triangles["normal"] = vectors / np.where(length > 0, length, 1)
    triangles["corners"] = mesh.vertices[mesh.faces]
    head = f"famseg binary STL SPACE={space} UNIT=mm".encode().ljust(80)
    return head + struct.pack("<I", len(triangles)) + triangles.tobytes()


def _ply(parts: Parts, space: Space) -> bytes:
    mesh = joined(parts.values())
    head = (
        "ply\nformat binary_little_endian 1.0\n"
        f"comment famseg\ncomment SPACE={space}\ncomment UNIT=mm\n"
        f"element vertex {len(mesh.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.zeros(len(mesh.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"] = 3
    faces["corners"] = mesh.faces
    return head.encode() + mesh.vertices.astype("<f4").tobytes() + faces.tobytes()


def _mz3(parts: Parts, space: Space) -> bytes:
    """Return an MZ3 file, see https://github.com/neurolabusc/surf-ice/tree/master/mz3."""
    if space != "RAS":
        raise ValueError("MZ3 files are in RAS: write them with space='RAS'")
    mesh = joined(parts.values())
    has_faces_and_vertices = 3
    head = struct.pack(
        "<HHIII", 0x5A4D, has_faces_and_vertices, len(mesh.faces), len(mesh.vertices), 0
    )
    body = mesh.faces.astype("<i4").tobytes() + mesh.vertices.astype("<f4").tobytes()
    return gzip.compress(head + body, compresslevel=6, mtime=0)


def _three_mf(parts: Parts, space: Space) -> bytes:
    return three_mf(parts, description=f"SPACE={space}")


_FORMATS: dict[str, Callable[[Parts, Space], bytes]] = {
    ".stl": _stl,
    ".ply": _ply,
    ".3mf": _three_mf,
    ".mz3": _mz3,
}
