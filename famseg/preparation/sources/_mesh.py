"""Voxelization of surface meshes (STL, PLY)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from famseg.messages import InputError
from famseg.preparation._types import Scan
from famseg.preparation.sources._items import Item, local, told_as
from famseg.preparation.sources._read import check_memory
from famseg.volumes import Volume

MESH_SPACING_MM = 0.5
"""Voxel size for a mesh without a grid; larger if 512 voxels along an edge are not enough."""

MOST_VOXELS = 512
_MARGIN = 0.6180  # voxels around the mesh, such that flat ends miss the voxel centers

Vertices = NDArray[np.float64]

# Longest edge of the bounding box of a head in mm, and the same in meters and centimeters.
_HEAD_MM = (100.0, 450.0)
_UNITS = (("mm", 1.0), ("cm", 10.0), ("m", 1000.0))


def read_mesh(item: Item, origin: str) -> Scan:
    """Read a mesh and voxelize it.

    A voxel is inside if a ray through its center has crossed the surface an odd number of times
    (even-odd rule), so that closed cavities stay empty. Small openings and flat cuts (a neck) are
    closed.

    Args:
        item: STL or PLY.
        origin: What error messages begin with.

    Returns:
        A mask of 0 and 1 as uint8, with voxels of 0.5 mm or 1/512 of the longest edge. Mesh files
        have no standard field for orientation or unit. ``SPACE=RAS`` or ``SPACE=LPS`` in the file
        decides the orientation; without it LPS is assumed, which 3D Slicer writes. The unit is mm,
        unless the size is that of a head in centimeters or meters. A note states these assumptions.

    Raises:
        InputError: If it is damaged or has openings that cannot be closed.
    """
    # These imports take half a second, and only meshes need them.
    from famseg.meshes import close_openings, inside, load_mesh, space_note

    with told_as(origin), local([item]) as (path,):
        vertices, faces, space = load_mesh(path)
        vertices, unit_note = _in_mm(vertices)
        vertices, faces, mended = close_openings(vertices, faces)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        spacing = max(MESH_SPACING_MM, float((high - low).max()) / (MOST_VOXELS - 4))
        shape = np.ceil((high - low) / spacing).astype(int) + 3
        check_memory(shape.tolist(), 1)
        affine = np.diag([spacing, spacing, spacing, 1.0])
        affine[:3, 3] = low - _MARGIN * spacing
        mask, odd = inside(vertices, faces, affine, (int(shape[0]), int(shape[1]), int(shape[2])))
    if not mask.any():
        raise InputError(f"{origin}: the mesh encloses nothing: its surface has no volume")
    notes = [unit_note, mended, space_note(space), f"Voxelized at {spacing:.2f} mm."]
    if odd:
        notes.append(f"{odd} rays did not leave the mesh: they were set like their neighbors.")
    return Scan(Volume(mask, affine), "mask", tuple(note for note in notes if note))


def _in_mm(vertices: Vertices) -> tuple[Vertices, str]:
    longest = float(np.ptp(vertices, axis=0).max())
    for unit, factor in _UNITS:
        if _HEAD_MM[0] <= longest * factor <= _HEAD_MM[1]:
            if factor == 1:
                return vertices, ""
            note = f"{longest:.3g} long: taken as {unit}, since no head is so small in mm."
            return vertices * factor, note
    return vertices, f"{longest:.3g} mm long, unlike a head: check the unit of the mesh."
