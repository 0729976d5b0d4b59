"""Wall thickness."""

from __future__ import annotations

import manifold3d
import numpy as np
from numpy.typing import ArrayLike, NDArray

from famseg.meshes._distance import samples_of
from famseg.meshes._mesh import Mesh
from famseg.meshes._solid import as_manifold
from famseg.meshes._surface import surface_mesh

_SHORT_MM = 25.0  # first length of rays: manifold3d examines all faces in a ray's box
_BEHIND_MM = 1e-3  # a ray hits the face that it starts on and, by rounding, adjacent faces

Floats = NDArray[np.float64]


def thickness_mm(
    solid: Mesh | ArrayLike, affine: ArrayLike | None = None, *, samples: int = 3000
) -> Floats:
    """Return the thickness of a wall at points spread evenly over its surface.

    The thickness at a point is the length of the ray that starts there, goes straight inwards
    against the surface's normal, and ends where it leaves the solid. It is correct for walls with
    nearly parallel sides, too large otherwise (by 6 % at 20 degrees), 0 at a knife edge, and at the
    rim of a plate it is the plate's width. Useful statistics are the minimum, the 5th percentile
    and the median.

    Args:
        solid: The surface of a solid, or a mask, whose :func:`surface_mesh` is taken.
        affine: Of the mask.
        samples: Number of points; each represents the same area and takes about 0.3 ms.

    Returns:
        Thickness at each point, shape ``(samples,)``.

    Raises:
        ValueError: If the mesh is not that of a solid, a mask comes without its affine or a mesh
            with one, or ``samples`` is below 1.

    Example:
        >>> plate = surface_mesh(np.ones((40, 40, 4)), np.eye(4), smoothing_mm=0.5)
        >>> round(float(np.median(thickness_mm(plate, samples=500))), 1)
        4.0
    """
    if samples < 1:
        raise ValueError(f"samples must be 1 or more, got {samples}")
    if isinstance(solid, Mesh) == (affine is not None):
        raise ValueError("give a mesh, or a mask with its affine")
    mesh = solid if isinstance(solid, Mesh) else surface_mesh(solid, np.asarray(affine))
    if len(mesh.faces) == 0:
        raise ValueError("the mesh is empty: it has no thickness")
    body = as_manifold(mesh)
    points, faces = samples_of(mesh, samples)
    vectors = mesh.area_vectors_mm2[faces]
    inwards = -vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    reach = float(np.linalg.norm(np.ptp(mesh.bounds_mm, axis=0))) + 1.0
    return np.array(
        [_way_out_mm(body, start, way, reach) for start, way in zip(points, inwards, strict=True)]
    )


def _way_out_mm(body: manifold3d.Manifold, start: Floats, way: Floats, reach_mm: float) -> float:
    """Return the distance at which a ray leaves a solid; hits are sorted."""
    for length in (min(_SHORT_MM, reach_mm), reach_mm):
        for hit in body.ray_cast(tuple(start), tuple(start + length * way)):
            away = hit.distance * length
            if away > _BEHIND_MM:
                return float(away)
    return 0.0  # the solid is thinner than a micrometer here
