"""Files that are there whole or not at all, and never somewhere else by a link in their way."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO

_TOKEN_BYTES = 8
_PART = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.part.*", re.DOTALL)
_NO_FILE = "not a regular file"
_LINK = "a link lies in the way"


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a kill leaves either the old content or the new one, never a part.

    The file has the permissions that the user's umask gives. What is half written has a name that
    nobody can guess, and is never written through a link that somebody put there.

    Args:
        path: The file; a link of this name is replaced, not followed.
        content: All that it shall hold.

    Raises:
        OSError: If it cannot be written; the old content stays.
    """
    with fresh_part(path) as part, part.open("xb") as file:
        file.write(content)


@contextmanager
def fresh_part(path: Path, ending: str = "") -> Iterator[Path]:
    """Give a name for what is half written; afterwards it is on the disk and gets its own name.

    For libraries that write files by name. The new name lies in the same folder; where the context
    ends by an exception, nothing stays.

    Args:
        path: What the file shall be called; a link of this name is replaced, not followed.
        ending: What the name must end in, where a library takes the format from it.

    Raises:
        OSError: If it cannot be written.
    """
    token = secrets.token_hex(_TOKEN_BYTES)
    part = path.with_name(f".{path.name}.{token}.part{ending}")
    try:
        yield part
        with open_to_update(part, create=False) as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def open_to_update(path: Path, *, create: bool = True) -> IO[bytes]:
    """Open a file that is written in place, such as a lock, for reading and writing at its start.

    Its content stays; a new one is empty and has the permissions of the umask.

    Args:
        path: The file.
        create: Whether it is made if it is missing.

    Raises:
        OSError: If a link lies in the way, it is no regular file (a pipe, a device), or cannot be
            opened.
    """
    # Without O_NONBLOCK the opening of a pipe would wait for its other end.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags | (os.O_CREAT if create else 0), 0o666)
    except OSError:
        if not path.is_symlink():
            raise
        handle = -1
    if handle < 0:  # outside of the handler: the system's words for it, "too many levels", mislead
        raise OSError(errno.ELOOP, _LINK, str(path))
    return os.fdopen(_regular(handle, path), "r+b")


def open_to_append(path: Path) -> IO[bytes]:
    """Open a log for writing at its end, also by several processes; a new one is empty.

    Args:
        path: The file.

    Raises:
        OSError: If a link lies in the way, it is not a regular file, or cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(_regular(os.open(path, flags, 0o666), path), "ab")


def open_to_read(path: Path) -> BufferedReader:
    """Open a file for reading, through links; what is no file of the disk is not opened at all.

    Args:
        path: The file.

    Raises:
        OSError: If it is no regular file (a pipe would wait for a writer), or cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a device can do something
        raise OSError(errno.EINVAL, _NO_FILE, str(path))
    return os.fdopen(
        _regular(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path), "rb"
    )


def is_part(name: str) -> bool:
    """Return whether a name is one of ours for what is half written.

    Example:
        >>> is_part(".last.pt.0123456789abcdef.part"), is_part(".last.part")
        (True, False)
    """
    return _PART.fullmatch(name) is not None


def remove_parts(path: Path) -> None:
    """Remove what killed processes left half written of a file; nobody else may be writing it.

    Args:
        path: The file that it was to become.
    """
    with suppress(OSError):
        for each in path.parent.iterdir():
            match = _PART.fullmatch(each.name)
            if match and match["name"] == path.name:
                each.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: a power cut would bring the old ones back."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _regular(handle: int, path: Path) -> int:
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, _NO_FILE, str(path))
