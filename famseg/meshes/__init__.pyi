from ._blunt import Blunted as Blunted
from ._blunt import blunted as blunted
from ._close import close_openings as close_openings
from ._close import open_edges as open_edges
from ._distance import distances_mm as distances_mm
from ._gap import Gap as Gap
from ._gap import cut_gap as cut_gap
from ._gap import gap_mm as gap_mm
from ._gap import offset as offset
from ._gap import separated as separated
from ._insertable import without_undercut as without_undercut
from ._inside import inside as inside
from ._load import load_mesh as load_mesh
from ._load import space_note as space_note
from ._mesh import Mesh as Mesh
from ._read import read_mesh as read_mesh
from ._read import voxelize as voxelize
from ._solid import intersect as intersect
from ._solid import is_manifold as is_manifold
from ._solid import largest_pieces as largest_pieces
from ._solid import simplify as simplify
from ._solid import subtract as subtract
from ._solid import union as union
from ._surface import surface_mesh as surface_mesh
from ._surface import surface_mesh_of_field as surface_mesh_of_field
from ._thickness import thickness_mm as thickness_mm
from ._undercut import insertion_direction as insertion_direction
from ._undercut import undercut as undercut
from ._write import write_mesh as write_mesh

__all__ = [
    "Blunted",
    "Gap",
    "Mesh",
    "blunted",
    "close_openings",
    "cut_gap",
    "distances_mm",
    "gap_mm",
    "insertion_direction",
    "inside",
    "intersect",
    "is_manifold",
    "largest_pieces",
    "load_mesh",
    "offset",
    "open_edges",
    "read_mesh",
    "separated",
    "simplify",
    "space_note",
    "subtract",
    "surface_mesh",
    "surface_mesh_of_field",
    "thickness_mm",
    "undercut",
    "union",
    "voxelize",
    "without_undercut",
    "write_mesh",
]
