from ._export import FORMATS as FORMATS
from ._export import Format as Format
from ._export import export_network as export_network
from ._source import Source as Source
from ._source import open_source as open_source
