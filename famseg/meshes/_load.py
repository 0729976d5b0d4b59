"""Reading STL and PLY files into vertices and triangles."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from famseg.messages import DAMAGED, InputError

_BYTES_IN_MEMORY = 12  # per byte of a file while it is read

Vertices = NDArray[np.float64]
Faces = NDArray[np.int64]


def load_mesh(path: Path) -> tuple[Vertices, Faces, str]:
    """Return vertices in RAS+ (in the unit of the file), triangles, and the space of the file.

    Returns:
        Vertices ``(V, 3)``, faces ``(F, 3)``, and ``LPS`` or ``RAS`` if the file states it.
        Otherwise it is an empty text, and LPS was assumed.

    Raises:
        InputError: If the file is not a mesh; the message does not begin with its path.
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
            import trimesh  # slow to import, and most inputs are volumes

            mesh = trimesh.load_mesh(path, process=True)
    except MemoryError:
        raise  # has its own message
    except DAMAGED as error:
        raise InputError("not readable as a mesh: it is damaged; copy it again") from error
    vertices = np.asarray(getattr(mesh, "vertices", ()), dtype=np.float64)
    faces = np.asarray(getattr(mesh, "faces", ()), dtype=np.int64)
    if vertices.ndim != 2 or len(faces) == 0:
        raise InputError("the mesh has no triangles: it is empty or a cloud of points")
    if not np.isfinite(vertices).all():
        raise InputError("the mesh has vertices that are not numbers: repair it")
    with path.open("rb") as stream:
        start = stream.read(1024).upper()
    space = "RAS" if b"SPACE=RAS" in start else "LPS" if b"SPACE=LPS" in start else ""
    return (vertices if space == "RAS" else vertices * [-1, -1, 1]), faces, space


def space_note(space: str) -> str:
    """Return a note about the axes of a mesh file."""
    if space:
        return ""
    return (
        "The mesh file does not state its coordinate system: it was read as LPS (x to the left, y "
        "to the back); check left and right."
    )


def _check_stl(path: Path, size: int) -> None:
    """Refuse a binary STL that states more triangles than it contains."""
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
