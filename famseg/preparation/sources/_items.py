"""Uniform access to files in folders and ZIP archives."""

from __future__ import annotations

import io
import re
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from famseg.files import ZIP_DAMAGED, extract_members
from famseg.messages import InputError
from famseg.volumes import volume_suffix

_MOST_IN_MEMORY = 2**30  # bytes of a file inside an archive
_UNFIT = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True)
class Item:
    """A file, or a member of an archive.

    Args:
        place: Its path below the folder that is searched.
        file: The file on disk; for a member of an archive, the archive.
        member: Its name in the archive.
    """

    place: PurePosixPath
    file: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.place.name

    @property
    def is_volume(self) -> bool:
        """Whether it has the suffix of a volume."""
        return volume_suffix(Path(self.name)) is not None

    @property
    def stem(self) -> str:
        """The file's own name without its suffix."""
        ending = volume_suffix(Path(self.name)) or self.place.suffix
        return self.name[: -len(ending)] if ending else self.name

    @property
    def subject(self) -> str:
        """A subject name derived from its path, without the suffix."""
        return fit_name(self.place.with_name(self.stem).as_posix())


class Opener:
    """Opens files in turn without unpacking them to disk, and each archive only once."""

    def __init__(self) -> None:
        self._archives: dict[Path, zipfile.ZipFile] = {}

    def __enter__(self) -> Opener:
        return self

    def __exit__(self, *_: object) -> None:
        for archive in self._archives.values():
            archive.close()

    def open(self, item: Item) -> IO[bytes]:
        """Open a file for reading."""
        if item.member is None:
            return item.file.open("rb")
        archive = self._archive(item)
        if archive.getinfo(item.member).file_size > _MOST_IN_MEMORY:
            raise InputError("too large to be read inside an archive: unpack it")
        # In memory, because seeking backwards in a compressed stream restarts at its beginning.
        return io.BytesIO(archive.read(item.member))

    def start(self, item: Item, count: int) -> bytes:
        """Return the first bytes of a file; fewer if it is shorter, none if it cannot be read."""
        try:
            if item.member is None:
                with item.file.open("rb") as stream:
                    return stream.read(count)
            with self._archive(item).open(item.member) as member:
                return member.read(count)
        except (OSError, *ZIP_DAMAGED):
            return b""

    def _archive(self, item: Item) -> zipfile.ZipFile:
        if item.file not in self._archives:
            self._archives[item.file] = zipfile.ZipFile(item.file)
        return self._archives[item.file]


@contextmanager
def local(items: Sequence[Item]) -> Iterator[list[Path]]:
    """Provide paths on disk; members of archives are unpacked to a temporary folder.

    Args:
        items: The files, in the order of the paths.

    Yields:
        A path for each item. Unpacked files keep their suffixes, but not their names.

    Raises:
        InputError: If a member is damaged, or there is not enough space to unpack it.
    """
    if all(item.member is None for item in items):
        yield [item.file for item in items]
        return
    with tempfile.TemporaryDirectory(prefix="famseg-") as folder:
        yield extract_members([(i.file, i.member) for i in items], Path(folder))


@contextmanager
def told_as(origin: str) -> Iterator[None]:
    """Prefix errors with the path of a source below the searched folder.

    Args:
        origin: What messages begin with.
    """
    try:
        yield
    except InputError as error:
        raise InputError(*(f"{origin}: {fault}" for fault in error.faults)) from None
    except MemoryError:
        raise InputError(
            f"{origin}: not enough memory to read it: use fewer workers or a larger machine"
        ) from None


@contextmanager
def without_path(path: Path) -> Iterator[None]:
    """Remove a path from errors, since it contains the names of users and folders.

    Args:
        path: The path that messages begin with.
    """
    try:
        yield
    except InputError as error:
        faults = [fault.removeprefix(f"{path}: ") for fault in error.faults]
        folder = f"{path.parent}/"
        raise InputError(*(fault.replace(folder, "") for fault in faults)) from None


def fit_name(text: str) -> str:
    """Return a text as a valid name of a file and a subject: ASCII letters, digits, ``._-``.

    Example:
        >>> fit_name("Kopf 3/Schädel (neu)")
        'Kopf_3_Schadel_neu'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _UNFIT.sub("_", plain).strip("._-")[:80] or "unnamed"
