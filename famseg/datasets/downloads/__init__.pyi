from ._catalogue import DOWNLOADS as DOWNLOADS
from ._catalogue import Download as Download
from ._catalogue import RemoteFile as RemoteFile
from ._catalogue import checksum_of as checksum_of
from ._fetch import fetch as fetch
