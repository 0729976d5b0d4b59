"""Closing of the openings in a mesh."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from famseg.messages import InputError

LARGEST_OPENING_MM = 10.0
"""Openings up to this width are closed with any shape; wider ones only if they are flat."""

MOST_OPENINGS = 20_000
"""A mesh with more openings is not the surface of a solid."""

FLAT_MM = 1.0
"""How far a flat opening's rim may be from a plane: a cut through the neck, a scan's border."""

Floats = NDArray[np.float64]
Faces = NDArray[np.int64]


def open_edges(faces: Faces) -> NDArray[np.int64]:
    """Return the edges that belong to an odd number of triangles, shape ``(E, 2)``.

    A surface without them divides space into inside and outside, even where triangles cross or
    four of them share an edge.
    """
    many = int(faces.max()) + 1
    low, high = np.minimum(faces, faces[:, [1, 2, 0]]), np.maximum(faces, faces[:, [1, 2, 0]])
    # One number per edge, since sorting numbers is much faster than sorting pairs.
    each, counts = np.unique((low * many + high).ravel(), return_counts=True)
    odd = each[counts % 2 == 1]
    return np.column_stack([odd // many, odd % many])


def close_openings(vertices: Floats, faces: Faces) -> tuple[Floats, Faces, str]:
    """Close a mesh.

    Each opening is filled by triangles from its rim to the rim's middle.

    Args:
        vertices: In mm, ``(V, 3)``.
        faces: Triangles ``(F, 3)``.

    Returns:
        Vertices, triangles, and a note where anything was closed, else an empty text.

    Raises:
        InputError: If an opening is wide and not flat; the message does not begin with a path.
    """
    rim = open_edges(faces)
    if len(rim) == 0:
        return vertices, faces, ""
    corners, where = np.unique(rim, return_inverse=True)
    ends = where.reshape(rim.shape)
    graph = coo_array((np.ones(len(rim)), (ends[:, 0], ends[:, 1])), shape=(len(corners),) * 2)
    count, owner = connected_components(graph, directed=False)
    if count > MOST_OPENINGS:
        raise InputError(
            f"the mesh is not a surface: {len(rim)} edges without a neighbor in {count} openings; "
            "repair it, e.g. in MeshLab or Meshmixer"
        )
    middles: list[Floats] = []
    fans: list[Faces] = []
    widest = 0.0
    for opening, (inner, edges) in enumerate(
        zip(_parted(owner, count), _parted(owner[ends[:, 0]], count), strict=True)
    ):
        points = vertices[corners[inner]]
        center = points.mean(axis=0)
        wide = float(np.linalg.norm(np.ptp(points, axis=0)))
        off = float(np.linalg.svd(points - center, full_matrices=False)[1][-1])
        if wide > LARGEST_OPENING_MM and off / np.sqrt(len(points)) > FLAT_MM:
            raise InputError(
                f"the mesh is open: {len(rim)} edges without a neighbor in {count} openings, one "
                f"of them {wide:.0f} mm wide and not flat; close it, e.g. in MeshLab or Meshmixer"
            )
        widest = max(widest, wide)
        tip = np.full((len(edges), 1), len(vertices) + opening)
        middles.append(center)
        fans.append(np.hstack([rim[edges], tip]))
    note = (
        f"The mesh was open: {len(rim)} edges without a neighbor in {count} openings of up to "
        f"{widest:.0f} mm were closed."
    )
    return np.vstack([vertices, middles]), np.vstack([faces, *fans]), note


def _parted(owner: NDArray[np.integer], count: int) -> list[NDArray[np.intp]]:
    """Return the indices of 0, those of 1 and so on, at the cost of one sort."""
    order = np.argsort(owner, kind="stable")
    return np.split(order, np.searchsorted(owner[order], np.arange(1, count)))
