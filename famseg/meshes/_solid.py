"""Operations on solids by manifold3d: simplification, booleans, pieces and validity."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import manifold3d
import numpy as np
from numpy.typing import NDArray

from famseg.meshes._mesh import Mesh, joined

_REASONS = {
    "NotManifold": "an edge does not have exactly one triangle on each side, facing the same way",
    "NonFiniteVertex": "a vertex is not a finite number",
    "VertexOutOfBounds": "a face refers to a vertex that does not exist",
}


_KEPT: WeakKeyDictionary[Mesh, manifold3d.Manifold] = WeakKeyDictionary()  # a mesh never changes


def is_manifold(mesh: Mesh) -> tuple[bool, str]:
    """Return whether a mesh is the surface of a solid, and if not, why.

    It is one if manifold3d accepts it: closed, and consistently oriented; the volume must also be
    positive. Triangles may intersect.

    Args:
        mesh: Any mesh.

    Returns:
        ``(True, "")``, or False with the reason, as a part of a sentence.

    Example:
        >>> is_manifold(Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]))[1]
        'an edge does not have exactly one triangle on each side, facing the same way'
    """
    if len(mesh.faces) == 0:
        return False, "it has no triangles"
    reason = _why_not(mesh, _raw(mesh))
    return not reason, reason


def simplify(
    mesh: Mesh, *, max_error_mm: float | None = None, max_faces: int | None = None
) -> Mesh:
    """Return a mesh with fewer faces, closed as before.

    Vertices are removed one at a time if the surface remains within the error; none is moved.

    Args:
        mesh: The surface of a solid.
        max_error_mm: How far the surface may move.
        max_faces: Maximum number of faces: the smallest sufficient error is found to within a
            tenth. If manifold3d cannot reach it, the result has more faces.

    Raises:
        ValueError: If the mesh is not that of a solid, or not exactly one of the two is given.

    Example:
        >>> from famseg.meshes import surface_mesh
        >>> mesh = surface_mesh(np.ones((9, 9, 9)), np.eye(4))
        >>> small = simplify(mesh, max_error_mm=0.1)
        >>> len(small.faces) < len(mesh.faces) / 2, small.is_watertight
        (True, True)
    """
    if (max_error_mm is None) == (max_faces is None):
        raise ValueError("give either max_error_mm or max_faces")
    solid = as_manifold(mesh)
    if max_error_mm is not None:
        if not 0 < max_error_mm < np.inf:
            raise ValueError(f"max_error_mm must be above 0, got {max_error_mm}")
        return _mesh(solid.simplify(max_error_mm))
    if max_faces is None or max_faces < 4:
        raise ValueError(f"max_faces must be 4 or more, got {max_faces}")
    if len(mesh.faces) <= max_faces:
        return mesh
    low, high = 0.0, 1e-3
    largest = float(np.ptp(mesh.bounds_mm, axis=0).max()) / 4
    found = solid.simplify(high)
    while found.num_tri() > max_faces and high < largest:
        low, high = high, 2 * high
        found = solid.simplify(high)
    while high > 1.1 * low and found.num_tri() <= max_faces:
        middle = (low + high) / 2
        less = solid.simplify(middle)
        if less.num_tri() > max_faces:
            low = middle
        else:
            high, found = middle, less
        if high <= 1e-3:
            break
    return _mesh(found)


def union(*meshes: Mesh) -> Mesh:
    """Return the union of solids; robust to coinciding faces.

    Raises:
        ValueError: If one of them is not the mesh of a solid, or none is given.
    """
    return _boolean(meshes, manifold3d.OpType.Add)


def subtract(mesh: Mesh, *others: Mesh) -> Mesh:
    """Return the difference of a solid and others; empty if they enclose all of it.

    Raises:
        ValueError: If one of them is not the mesh of a solid.
    """
    return _boolean((mesh, *others), manifold3d.OpType.Subtract)


def intersect(*meshes: Mesh) -> Mesh:
    """Return the intersection of solids; empty if they do not overlap.

    Raises:
        ValueError: If one of them is not the mesh of a solid, or none is given.
    """
    return _boolean(meshes, manifold3d.OpType.Intersect)


def largest_pieces(mesh: Mesh, *, count: int | None = None, min_share: float = 0.0) -> Mesh:
    """Return the largest pieces of a solid: those that hang together, cavities included.

    Args:
        mesh: The surface of a solid.
        count: How many pieces to keep at most; None for all.
        min_share: Pieces whose volume is a smaller share of the largest one's are left out.

    Raises:
        ValueError: If the mesh is not that of a solid, or ``count`` is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    pieces = pieces_of(mesh)
    kept = [piece for piece in pieces if piece.volume_mm3 >= min_share * pieces[0].volume_mm3]
    return joined(kept[:count])


def pieces_of(mesh: Mesh) -> list[Mesh]:
    """Return the pieces of a solid, the largest first.

    An inward-pointing surface inside a piece is a cavity and remains part of it.

    Raises:
        ValueError: If the mesh is not that of a solid.
    """
    parts = [_mesh(part) for part in as_manifold(mesh).decompose()]
    solids = sorted((p for p in parts if p.volume_mm3 > 0), key=lambda p: -p.volume_mm3)
    owned: list[list[Mesh]] = [[solid] for solid in solids]
    for cavity in (part for part in parts if part.volume_mm3 <= 0):
        # The smallest enclosing piece, since a piece in a cavity of another may itself have
        # cavities.
        around = [k for k, solid in enumerate(solids) if _holds(solid, cavity)]
        if around:
            owned[around[-1]].append(cavity)
    whole = [joined(group) for group in owned]
    return sorted(whole, key=lambda piece: -piece.volume_mm3)


def _holds(outer: Mesh, inner: Mesh) -> bool:
    """Return whether a surface is inside another, by the parity of crossings along a ray."""
    (low, high), (inner_low, inner_high) = outer.bounds_mm, inner.bounds_mm
    if not ((low <= inner_low).all() and (inner_high <= high).all()):
        return False
    start = inner.vertices[inner.faces[0]].mean(axis=0)
    end = high + np.array([1.0, 2.0, 3.0])  # outside, and not parallel to an axis
    return len(as_manifold(outer).ray_cast(tuple(start), tuple(end))) % 2 == 1


def _boolean(meshes: Sequence[Mesh], operation: manifold3d.OpType) -> Mesh:
    if not meshes:
        raise ValueError("give at least one mesh")
    solids = [as_manifold(mesh) for mesh in meshes]
    if operation == manifold3d.OpType.Intersect:
        result = solids[0]
        for other in solids[1:]:
            result = result ^ other
        return _mesh(result)
    return _mesh(manifold3d.Manifold.batch_boolean(solids, operation))


def as_manifold(mesh: Mesh) -> manifold3d.Manifold:
    """Return a mesh as manifold3d's solid, which is kept with the mesh: making it takes a while.

    Raises:
        ValueError: If it is not the surface of a solid; an empty mesh is an empty solid.
    """
    if (kept := _KEPT.get(mesh)) is not None:
        return kept
    solid = _raw(mesh) if len(mesh.faces) else manifold3d.Manifold()
    reason = _why_not(mesh, solid) if len(mesh.faces) else ""
    if reason:
        raise ValueError(f"the mesh is not that of a solid: {reason}")
    _KEPT[mesh] = solid
    return solid


def box_mm(low: NDArray[np.float64], high: NDArray[np.float64]) -> Mesh:
    """Return a box between two corners."""
    size = tuple(float(edge) for edge in high - low)
    return _mesh(manifold3d.Manifold.cube(size).translate(tuple(float(x) for x in low)))


def _raw(mesh: Mesh) -> manifold3d.Manifold:
    return manifold3d.Manifold(
        manifold3d.Mesh64(
            vert_properties=mesh.vertices.copy(),  # manifold3d refuses read-only arrays
            tri_verts=mesh.faces.astype(np.uint64, order="C"),
        )
    )


def _why_not(mesh: Mesh, solid: manifold3d.Manifold) -> str:
    status = solid.status().name
    if status != "NoError":
        return _REASONS.get(status, f"manifold3d reports {status}")
    if mesh.volume_mm3 <= 0:
        return f"it encloses {mesh.volume_mm3:.3g} mm3: its triangles face inwards"
    return ""


def _mesh(solid: manifold3d.Manifold) -> Mesh:
    found = solid.to_mesh64()
    vertices = np.asarray(found.vert_properties, dtype=np.float64)[:, :3]
    mesh = Mesh(vertices.reshape(-1, 3), np.asarray(found.tri_verts).astype(np.int32))
    if solid.num_tri():
        _KEPT[mesh] = solid
    return mesh
