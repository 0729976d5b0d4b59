"""Safe reading of untrusted tar archives, member by member."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from famseg.messages import DAMAGED, InputError

TAR_DAMAGED = (tarfile.TarError, gzip.BadGzipFile, *DAMAGED)
"""Exceptions raised when a damaged archive is read, in addition to OSError of the disk."""

_LARGEST_READ = 2**24  # tarfile reads a long name at once, regardless of its length
_MOST_MEMBERS = 10_000
_GZIP = b"\x1f\x8b"


class _Bounded:
    """A stream that raises an error when it exceeds a limit.

    Args:
        stream: The decompressed archive.
        limit: Bytes.
    """

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._limit = stream, limit

    def read(self, size: int = -1) -> bytes:
        """Read at most ``size`` bytes; the size is required."""
        if not 0 <= size <= _LARGEST_READ:
            raise tarfile.ReadError(f"{size} bytes at once")
        self._check(self.tell() + size)
        return self._stream.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        """Move to a position, counted from the beginning."""
        self._check(place)
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell()

    def _check(self, place: int) -> None:
        if place > self._limit + _LARGEST_READ:
            raise InputError(
                f"the archive unpacks to more than {self._limit} bytes: it may be made to fill the "
                "disk; unpack it yourself if you trust it"
            )


@contextmanager
def open_tar(path: Path, limit: int) -> Iterator[Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]]:
    """Open an archive, plain or compressed with gzip.

    Args:
        path: The archive.
        limit: Maximum size after unpacking, in bytes.

    Yields:
        Its members in order, each with the archive from which it is read.

    Raises:
        InputError: If it is larger, or a member is unsafe; the message does not name the file.
        tarfile.TarError: Or any of `TAR_DAMAGED`, if it is not an archive or is damaged.
    """
    with path.open("rb") as plain:
        packed = plain.read(2) == _GZIP
    with gzip.open(path) if packed else path.open("rb") as stream:
        bounded = cast("IO[bytes]", _Bounded(cast("IO[bytes]", stream), limit))
        with tarfile.open(fileobj=bounded, mode="r:") as archive:
            yield _members(archive)
            while bounded.read(2**20):  # to the end, where the checksum is verified
                pass


def unsafe_name(name: str) -> str | None:
    """Return what is wrong with a member's name, or None.

    Example:
        >>> unsafe_name("A0001/A0001.nrrd"), unsafe_name("../../etc/passwd")
        (None, 'a member is outside the folder (..)')
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or (len(name) > 1 and name[1] == ":"):
        return "a member has an absolute path"
    if ".." in path.parts:
        return "a member is outside the folder (..)"
    return "the name of a member contains a zero byte" if "\0" in name else None


def _members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    last = -1
    for count, member in enumerate(archive, start=1):
        fault = unsafe_name(member.name)
        if not (member.isreg() or member.isdir()) or member.issparse():
            fault = "a member is a link or a device"
        if fault is not None:
            raise InputError(f"the archive is not safe to unpack: {fault}; do not use it")
        # A negative size would seek backwards and cause an endless loop.
        if member.offset <= last or member.size < 0:
            raise tarfile.ReadError("one member is inside another")
        if count > _MOST_MEMBERS:
            raise InputError(f"the archive has more than {_MOST_MEMBERS} members: do not use it")
        last = member.offset
        yield member, archive
