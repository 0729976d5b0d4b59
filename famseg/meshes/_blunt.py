r"""Removal of rims that are too thin to be manufactured.

The opening of a solid by a ball is the union of all balls of that size inside it. Where a ball
touches the surface, the ray straight inwards passes through the ball, so no part of an opened solid
is thinner than the diameter of the ball. It is computed from the balls: around each voxel center
:math:`c` at a depth of :math:`d_c \ge r`, a ball of radius :math:`d_c` fits in, and

.. math:: f(x) = \min_c |x - c| - d_c

is positive where no ball reaches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from famseg.meshes._gap import grid_around, lattice, within
from famseg.meshes._mesh import Mesh
from famseg.meshes._read import voxelize
from famseg.meshes._solid import largest_pieces, subtract
from famseg.meshes._surface import surface_mesh_of_field

_FINE_MM = (0.4, 0.6)  # edge of the voxels at a rim: a third of the thickness, within these limits
_SLACK = 0.25  # of a voxel, because balls are centered only on voxels
_NEIGHBORS = 12
_SLIVER = 0.01

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Blunted(NamedTuple):
    """A solid without its thin rim.

    Attributes:
        mesh: Its surface.
        removed_mm3: The removed volume.
    """

    mesh: Mesh
    removed_mm3: float


def blunted(mesh: Mesh, least_mm: float, beside: Mesh, *, reach_mm: float) -> Blunted:
    """Return a solid without its parts that are thinner than a length near another solid.

    Sharp edges are rounded a little, elsewhere the surface does not change. Takes about 20
    microseconds for each voxel of a third of the length near the other solid.

    Args:
        mesh: The surface of a solid.
        least_mm: The minimum thickness of the result, measured straight inwards from its surface.
        beside: The surface of another solid.
        reach_mm: How far from the other solid the rim may reach; deeper parts do not change.

    Raises:
        ValueError: If a mesh is not that of a solid, or nothing is left.
    """
    spacing = float(np.clip(least_mm / 3, *_FINE_MM))
    affine, shape = grid_around(mesh.bounds_mm, 3 * spacing, spacing)
    inside = voxelize(mesh, shape, affine)
    zone = within(beside, shape, affine, reach_mm)
    field = _beyond_balls(mesh, inside, zone, affine, least_mm / 2)
    if field is None:
        return Blunted(mesh, 0.0)
    level = _SLACK * spacing
    if not (field > level).any():
        return Blunted(mesh, 0.0)
    rest = subtract(mesh, surface_mesh_of_field(field, affine, level))
    if len(rest.faces) == 0:
        raise ValueError(f"no part of the solid is {least_mm:g} mm thick")
    rest = largest_pieces(rest, min_share=_SLIVER)
    return Blunted(rest, mesh.volume_mm3 - rest.volume_mm3)


def _beyond_balls(
    mesh: Mesh, inside: Mask, zone: Mask, affine: Floats, radius_mm: float
) -> NDArray[np.float32] | None:
    """Return how far voxels lie beyond all balls that fit in; negative away from the zone."""
    spacing = float(affine[0, 0])
    deep_mm = radius_mm + 2 * spacing
    depth = np.where(inside, np.float32(deep_mm), np.float32(0))
    near = np.argwhere(inside & zone)
    if not len(near):
        return None
    # Distances to surface points instead of triangles, which at a depth of 1 mm are 2 % larger.
    surface = cKDTree(lattice(mesh, spacing), balanced_tree=False)
    away, _ = surface.query(_mm(near, affine), distance_upper_bound=deep_mm)
    depth[tuple(near.T)] = np.minimum(away, deep_mm)
    core = depth >= radius_mm
    # Larger balls lie within those around the outermost voxels of the core.
    steps = int(np.ceil(deep_mm / spacing))
    core &= ndimage.maximum_filter(zone.view(np.uint8), 2 * steps + 1) > 0
    core &= ~ndimage.binary_erosion(core, iterations=2)
    field = np.full(inside.shape, -spacing, dtype=np.float32)
    if not core.any():
        return None
    middles = np.argwhere(core)
    tree = cKDTree(_mm(middles, affine), balanced_tree=False)
    radii = depth[core].astype(np.float64)
    places = np.argwhere(zone & ndimage.binary_dilation(inside & zone, iterations=2))
    places = places[depth[tuple(places.T)] < radius_mm]
    points = _mm(places, affine)
    reach = 2 * deep_mm
    away, which = tree.query(points, k=min(_NEIGHBORS, len(middles)), distance_upper_bound=reach)
    beyond = away - np.append(radii, 0.0)[which]
    field[tuple(places.T)] = np.clip(beyond.min(axis=1), -spacing, 2 * spacing)
    return field


def _mm(places: NDArray[np.int64], affine: Floats) -> Floats:
    return np.asarray(places @ affine[:3, :3].T + affine[:3, 3])
