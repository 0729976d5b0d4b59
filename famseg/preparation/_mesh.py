"""Surface meshes (STL, PLY) to masks."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import trimesh
from numpy.typing import NDArray

from famseg.config import InputError
from famseg.config._errors import DAMAGED
from famseg.datasets import Volume
from famseg.preparation._inside import inside
from famseg.preparation._items import Item, local, told_as
from famseg.preparation._mend import close
from famseg.preparation._read import check_memory
from famseg.preparation._types import Scan

MESH_SPACING_MM = 0.5
"""Voxels of a mesh that says nothing of voxels; larger where 512 along an edge are not enough."""

MOST_VOXELS = 512
_MARGIN = 0.6180  # voxels around the mesh: flat ends must not lie in the middles of voxels
_BYTES_IN_MEMORY = 12  # for each byte of a file, while it is read

Vertices = NDArray[np.float64]
Faces = NDArray[np.int64]

# Longest edge of the box around a head, in mm, and what it is in metres and centimetres.
_HEAD_MM = (100.0, 450.0)
_UNITS = (("mm", 1.0), ("cm", 10.0), ("m", 1000.0))


def read_mesh(item: Item, origin: str) -> Scan:
    """Read a mesh and voxelise it.

    A voxel is inside where a ray through its middle has crossed the surface an odd number of times,
    so that closed cavities stay empty. Small openings and flat cuts (a neck) are closed.

    Args:
        item: STL or PLY.
        origin: What error messages begin with.

    Returns:
        A mask of 0 and 1 as uint8, voxels of 0.5 mm or 1/512 of the longest edge. Mesh files do not
        say which way is right or what their unit is: ``SPACE=RAS`` or ``SPACE=LPS`` in the file
        decides, else it is taken as LPS as 3D Slicer writes it; mm, unless the size is that of a
        head in centimetres or metres. A note says so.

    Raises:
        InputError: If it is damaged or has openings that cannot be closed.
    """
    with told_as(origin), local([item]) as (path,):
        vertices, faces, space = load_mesh(path)
        vertices, unit_note = _in_mm(vertices)
        vertices, faces, mended = close(vertices, faces)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        spacing = max(MESH_SPACING_MM, float((high - low).max()) / (MOST_VOXELS - 4))
        shape = np.ceil((high - low) / spacing).astype(int) + 3
        check_memory(shape.tolist(), 1)
        affine = np.diag([spacing, spacing, spacing, 1.0])
        affine[:3, 3] = low - _MARGIN * spacing
        mask, odd = inside(vertices, faces, affine, (int(shape[0]), int(shape[1]), int(shape[2])))
    if not mask.any():
        raise InputError(f"{origin}: the mesh encloses nothing: its surface has no volume")
    notes = [unit_note, mended, space_note(space), f"Voxelised at {spacing:.2f} mm."]
    if odd:
        notes.append(f"{odd} rays left the mesh without an end: set as their neighbours.")
    return Scan(Volume(mask, affine), "mask", tuple(note for note in notes if note))


def load_mesh(path: Path) -> tuple[Vertices, Faces, str]:
    """Return vertices in RAS+ (in the unit of the file), triangles, and the space of the file.

    Returns:
        Vertices ``(V, 3)``, faces ``(F, 3)``, and ``LPS`` or ``RAS`` where the file says so, else
        an empty text: then LPS was assumed.

    Raises:
        InputError: If the file is no mesh; the message has no place in front.
    """
    size = path.stat().st_size
    need, free = _BYTES_IN_MEMORY * size, psutil.virtual_memory().available
    if need > free:
        raise InputError(
            f"a mesh of {size / 2**20:.0f} MiB needs about {need / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free: make it coarser, or use a larger machine"
        )
    _check_stl(path, size)
    try:
        with _quiet():
            mesh = trimesh.load_mesh(path, process=True)
    except MemoryError:
        raise  # has a line of its own
    except DAMAGED as error:
        raise InputError("not readable as a mesh: it is damaged; copy it again") from error
    vertices = np.asarray(getattr(mesh, "vertices", ()), dtype=np.float64)
    faces = np.asarray(getattr(mesh, "faces", ()), dtype=np.int64)
    if vertices.ndim != 2 or len(faces) == 0:
        raise InputError("the mesh has no triangles: it is empty or a cloud of points")
    if not np.isfinite(vertices).all():
        raise InputError("the mesh has vertices that are no numbers: repair it")
    with path.open("rb") as stream:
        start = stream.read(1024).upper()
    space = "RAS" if b"SPACE=RAS" in start else "LPS" if b"SPACE=LPS" in start else ""
    return (vertices if space == "RAS" else vertices * [-1, -1, 1]), faces, space


def space_note(space: str) -> str:
    """Return what is to be said about the axes of a mesh file."""
    if space:
        return ""
    return (
        "The mesh file does not say which way is right: taken as LPS (x to the left, y to the "
        "back); compare left and right."
    )


def _in_mm(vertices: Vertices) -> tuple[Vertices, str]:
    longest = float(np.ptp(vertices, axis=0).max())
    for unit, factor in _UNITS:
        if _HEAD_MM[0] <= longest * factor <= _HEAD_MM[1]:
            if factor == 1:
                return vertices, ""
            note = f"{longest:.3g} long: taken as {unit}, as no head is so small in mm."
            return vertices * factor, note
    return vertices, f"{longest:.3g} mm long: no size for a head; check the unit of the mesh."


def _check_stl(path: Path, size: int) -> None:
    """Refuse a binary STL that announces more triangles than it holds."""
    if path.suffix.lower() != ".stl":
        return
    if size == 0:
        raise InputError("the file is empty (0 bytes): copy it again")
    with path.open("rb") as stream:
        start = stream.read(84)
    if start.lstrip().lower().startswith(b"solid") or len(start) < 84:
        return
    announced = 84 + 50 * int(struct.unpack("<I", start[80:])[0])
    if size < announced:
        raise InputError(
            f"cut short: it holds {size} bytes of the {announced} that its header announces; "
            "copy it again"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
