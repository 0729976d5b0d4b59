from ._volume import Volume as Volume
from ._volume import read_volume as read_volume
from ._volume import write_volume as write_volume
