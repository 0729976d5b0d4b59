"""Search for the original files of a data set: in a folder, its usual subfolder or its archive."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from famseg.files import TAR_DAMAGED, open_tar
from famseg.messages import InputError

MAX_FILE_BYTES = 2 * 2**30
"""Files that are larger than this, as stated or when unpacked, are refused."""

AGAIN = "copy or download it again"


@dataclass(frozen=True)
class Layout:
    """One form in which a data set is distributed.

    Args:
        folder: The subfolder that its archive unpacks to.
        archive: Name of the archive.
        files: Names of the files in it.
    """

    folder: str
    archive: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Location of a layout that was found.

    Args:
        layout: The layout that was found.
        path: The folder of its files, or the archive.
    """

    layout: Layout
    path: Path

    def where(self, name: str) -> str:
        """Return the name of a file for messages."""
        return str(self.path / name) if self.path.is_dir() else f"{self.path}: {name}"

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of each file; an archive is read once, without unpacking to disk.

        Raises:
            InputError: If a file is missing or the archive is damaged.
        """
        if not self.path.is_dir():
            yield from _members(self.path, self.layout.files)
            return
        for name in self.layout.files:
            yield name, read_bytes(self.path / name)


def find_layout(root: Path, layouts: Sequence[Layout], *, what: str, command: str) -> Place:
    """Find the files of a data set in the first layout of which any file exists.

    Args:
        root: Folder of the files, of their sub-folder or of the archive; or the archive.
        layouts: The possible layouts, the preferred one first.
        what: Name of the set for messages.
        command: Its name for ``famseg prepare``.

    Raises:
        InputError: If no file exists, or some are missing.
    """
    for layout in layouts:
        for folder in (root, root / layout.folder):
            there = [name for name in layout.files if (folder / name).is_file()]
            if there and len(there) == len(layout.files):
                return Place(layout, folder)
            if there:
                missing = ", ".join(name for name in layout.files if name not in there)
                raise InputError(f"{folder}: {missing}: missing beside {there[0]}. Copy all files.")
    for layout in layouts:
        for archive in (root, root / layout.archive):
            if archive.name == layout.archive and archive.is_file():
                return Place(layout, archive)
    looked = [f"{layout.folder}/" for layout in layouts] + [layout.archive for layout in layouts]
    raise InputError(nothing_there(root, looked, what=what, command=command))


def nothing_there(root: Path, looked: Sequence[str], *, what: str, command: str) -> str:
    """Return the error message for a root without the set."""
    state = f"there is no {what} in it" if root.is_dir() else "there is no such folder"
    if root.is_file():
        state = "is a file, not a folder"
    return (
        f"{root}: {state}: looked for {', '.join(looked)}. "
        f"Set data.root, or download it with: famseg prepare {command} --out FOLDER"
    )


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if its name ends in ``.gz``.

    Raises:
        InputError: If it cannot be read, is damaged or too large.
    """
    try:
        if path.suffix != ".gz":
            if path.stat().st_size > MAX_FILE_BYTES:
                raise InputError(f"{path}: {_TOO_LARGE}")
            return path.read_bytes()
        with gzip.open(path) as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: is not a gzip file, or it is cut short or damaged: {AGAIN}"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"{path}: {_TOO_LARGE}")
    return content


def check_labels(labels: NDArray[np.int64], classes: int, where: str, *, first: int = 0) -> None:
    """Refuse labels that are out of range.

    Args:
        labels: The class of each image.
        classes: Number of classes.
        where: Name of the file, for the message.
        first: Number of the first class.

    Raises:
        InputError: Stating the first wrong label.
    """
    wrong = np.flatnonzero((labels < first) | (labels >= first + classes))
    if len(wrong):
        raise InputError(
            f"{where}: image {wrong[0]} has the label {labels[wrong[0]]}, outside {first} to "
            f"{first + classes - 1} ({len(wrong)} such labels): {AGAIN}"
        )


_TOO_LARGE = f"has more than {MAX_FILE_BYTES // 2**30} GiB: it is not a file of this data set"


def _members(path: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the requested members of a ``.tar.gz``, in its order, from any folder."""
    missing = set(names)
    try:
        with open_tar(path, 2 * MAX_FILE_BYTES) as members:
            for member, archive in members:
                name = PurePosixPath(member.name).name
                if name in missing:
                    missing.remove(name)
                    yield name, _content(archive, member)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except TAR_DAMAGED as error:
        raise InputError(
            f"{path}: is not a .tar.gz archive, or it is cut short or damaged: {AGAIN}"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if missing:
        raise InputError(f"{path}: {', '.join(sorted(missing))}: not in the archive: {AGAIN}")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_FILE_BYTES:
        raise InputError(f"{member.name}: {_TOO_LARGE}")
    source = archive.extractfile(member)
    content = bytearray()
    while source is not None and (chunk := source.read(2**20)):
        content += chunk
    if len(content) != member.size:
        raise EOFError
    return bytes(content)
