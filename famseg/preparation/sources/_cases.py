"""Grouping of a collection's files into subjects with skulls, defective skulls and implants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from famseg.messages import InputError
from famseg.preparation._types import Companion, Refused, Role, Scan, Source
from famseg.preparation.sources._items import Item, fit_name, local, told_as, without_path
from famseg.preparation.sources._layouts import Challenge, Piece
from famseg.preparation.sources._mesh import read_mesh
from famseg.preparation.sources._read import check_memory, read_file
from famseg.volumes import MAX_VOXELS, Volume, read_header, volume_shape

_SAME_MM = 1e-2
_MOST_OUTSIDE = 0.1  # largest share of an implant that may be outside the grid of its skull

Array = NDArray[np.float64]
Mask = NDArray[np.uint8]


def find_cases(pieces: Sequence[Piece], layout: Challenge) -> tuple[list[Source], list[Refused]]:
    """Return a source for each case.

    If there is no complete skull, but a defective one and its implant, their union is the complete
    skull. A defective skull without an implant cannot be used.

    Args:
        pieces: The files.
        layout: Name of the collection, which becomes the first part of the subjects' names.

    Returns:
        The sources, and the cases without a complete skull, sorted by name.
    """
    cases: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        cases[piece.case].append(piece)
    sources: list[Source] = []
    refused: list[Refused] = []
    for case in sorted(cases):
        subject = fit_name(f"{layout}_{case}")
        found = _source(subject, cases[case])
        sources += [found] if isinstance(found, Source) else []
        refused += [found] if isinstance(found, Refused) else []
    return sources, refused


def _source(subject: str, pieces: list[Piece]) -> Source | Refused:
    best: dict[tuple[str, str], Piece] = {}
    for piece in sorted(pieces, key=lambda p: (p.rank, p.item.place.as_posix())):
        best.setdefault((piece.role, piece.defect), piece)
    files = tuple(dict.fromkeys(piece.item.file for piece in best.values()))
    split = next((piece.split for piece in pieces if piece.split is not None), None)
    complete = best.get(("complete", ""))
    defects = sorted({defect for role, defect in best if role != "complete"})
    pairs = [d for d in defects if ("defective", d) in best and ("implant", d) in best]
    if complete is not None:
        origin = complete.item.place.as_posix()
        read = partial(read_any, complete.item, origin)
        grid = complete.item
    elif pairs:
        whole, implant = best["defective", pairs[0]].item, best["implant", pairs[0]].item
        origin = whole.place.as_posix()
        read = partial(read_union, whole, implant, origin)
        grid = whole
    else:
        origin = next(iter(best.values())).item.place.as_posix()
        reason = (
            "a defective skull without its implant or the complete skull: there is no target to "
            "learn"
        )
        return Refused(subject, origin, reason, left_out=True)
    roles: tuple[Role, ...] = ("defective", "implant")
    companions = [
        Companion(role, defect, partial(read_onto, item, grid, item.place.as_posix()))
        for defect in defects
        for role in roles
        if (role, defect) in best
        for item in [best[role, defect].item]
    ]
    return Source(subject, origin, files, read, tuple(companions), split)


def read_any(item: Item, origin: str) -> Scan:
    """Read a volume or a mesh.

    Args:
        item: The file.
        origin: What error messages begin with.

    Raises:
        InputError: If it cannot be used.
    """
    return read_file(item, origin) if item.is_volume else read_mesh(item, origin)


def read_union(defective: Item, implant: Item, origin: str) -> Scan:
    """Read the union of a defective skull and its implant as the complete skull.

    Args:
        defective: The defective skull, whose grid is used.
        implant: The implant.
        origin: What error messages begin with.

    Raises:
        InputError: If either cannot be read or is not a mask.
    """
    skull = read_any(defective, origin)
    part = _onto(implant, implant.place.as_posix(), skull)
    for scan, item in ((skull, defective), (part, implant)):
        if scan.kind != "mask":
            raise InputError(f"{origin}: {item.name} is not a mask: it cannot be joined to another")
    whole = ((skull.volume.array > 0) | (part.volume.array > 0)).astype(np.uint8)
    note = "The complete skull is the union of the defective one and its implant."
    return Scan(Volume(whole, skull.volume.affine), "mask", (note, *skull.notes, *part.notes))


def read_onto(item: Item, grid: Item, origin: str) -> Scan:
    """Read a companion and resample it to the grid of its subject.

    Args:
        item: The companion.
        grid: The file whose grid is used.
        origin: What error messages begin with.

    Raises:
        InputError: If it cannot be read or lies outside the grid.
    """
    if item == grid:
        return read_any(item, origin)
    if not grid.is_volume:
        return _onto(item, origin, read_any(grid, origin))
    with told_as(origin), local([grid]) as (path,), without_path(path):
        affine, shape = read_header(path, MAX_VOXELS), volume_shape(path)
    # Only a mesh needs the voxel values, to check that it touches the bone.
    if item.is_volume:
        empty: Mask = np.broadcast_to(np.uint8(0), shape)
        return _onto(item, origin, Scan(Volume(empty, affine), "mask"))
    return _onto(item, origin, read_file(grid, origin))


def _onto(item: Item, origin: str, grid: Scan) -> Scan:
    """Read a file and resample it to the grid of a scan."""
    if not item.is_volume:
        return _mesh_onto(item, origin, grid)
    scan = read_file(item, origin)
    volume, wanted = scan.volume, grid.volume
    if volume.array.shape != wanted.array.shape:
        size, other = ("x".join(map(str, v.array.shape)) for v in (volume, wanted))
        raise InputError(
            f"{origin}: {size} voxels, but its skull has {other}: they must have the same grid"
        )
    if np.abs(volume.affine - wanted.affine).max() <= _SAME_MM:
        return scan
    note = (
        "Its header gives another position than that of its skull; it was taken to have the same "
        "voxel grid."
    )
    return Scan(Volume(volume.array, wanted.affine), scan.kind, (*scan.notes, note))


def _mesh_onto(item: Item, origin: str, grid: Scan) -> Scan:
    """Voxelize a mesh as LPS or RAS, whichever lies inside the grid and touches more bone."""
    shape, affine = grid.volume.array.shape, grid.volume.affine
    # Imported here because it takes half a second and only meshes need it.
    from famseg.meshes import close_openings, inside, load_mesh

    with told_as(origin), local([item]) as (path,):
        vertices, faces, space = load_mesh(path)
        vertices, faces, mended = close_openings(vertices, faces)
        check_memory(shape, 1)
        turned = {"LPS": vertices, "RAS": vertices * [-1, -1, 1]}
        if space:
            turned = {space: vertices}
        tried: list[tuple[float, str, Mask]] = []
        for name, points in turned.items():
            if _outside(points, affine, shape) <= _MOST_OUTSIDE:
                mask, _ = inside(points, faces, affine, (shape[0], shape[1], shape[2]))
                tried.append((_touching(mask, grid.volume.array > 0), name, mask))
        tried = [found for found in tried if found[2].any()]
        if not tried:
            raise InputError("the mesh is outside the volume of its skull, both as LPS and as RAS")
    _, name, mask = max(tried, key=lambda found: found[0])
    notes = [mended, "" if space else f"The mesh was taken as {name}, where it fits its skull."]
    return Scan(Volume(mask, affine), "mask", tuple(note for note in notes if note))


def _outside(points: Array, affine: Array, shape: tuple[int, ...]) -> float:
    """Return the share of points outside a grid."""
    voxels = (points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    within = (voxels >= -0.5) & (voxels <= np.array(shape) - 0.5)
    return float(1 - within.all(axis=1).mean())


def _touching(mask: Mask, bone: NDArray[np.bool_]) -> float:
    """Return the share of a mask's voxels that are bone or adjacent to bone."""
    places = np.argwhere(mask)
    if len(places) == 0:
        return 0.0
    low, high = np.maximum(places.min(axis=0) - 1, 0), places.max(axis=0) + 2
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    near = bone[box].copy()
    for axis in range(3):
        for step in (1, -1):
            near |= np.roll(bone[box], step, axis)
    return float(near[mask[box] > 0].mean())
