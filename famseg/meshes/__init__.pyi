from ._close import close_openings as close_openings
from ._close import open_edges as open_edges
from ._inside import inside as inside
from ._load import load_mesh as load_mesh
from ._load import space_note as space_note

__all__ = ["close_openings", "inside", "load_mesh", "open_edges", "space_note"]
