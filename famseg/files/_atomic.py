"""Atomic writing of files, without following symbolic links."""

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
_LINK = "a symbolic link is in the way"


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a kill leaves either the old content or the new one, never a part.

    The file has the permissions of the user's umask. The temporary file has an unguessable name and
    is never written through a symbolic link.

    Args:
        path: The file; a symbolic link of this name is replaced, not followed.
        content: The whole content of the file.

    Raises:
        OSError: If it cannot be written; the old content is kept.
    """
    with fresh_part(path) as part, part.open("xb") as file:
        file.write(content)


@contextmanager
def fresh_part(path: Path, ending: str = "") -> Iterator[Path]:
    """Yield the name of a temporary file, which is synced and renamed to ``path`` afterwards.

    For libraries that write files by name. The temporary file is in the same folder; if the context
    ends with an exception, it is removed.

    Args:
        path: The final name; a symbolic link of this name is replaced, not followed.
        ending: The suffix of the temporary name, for libraries that infer the format from it.

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
    """Open a file for updating in place, such as a lock, at its start.

    Its content is kept; a new file is empty and has the permissions of the umask.

    Args:
        path: The file.
        create: Whether a missing file is created.

    Raises:
        OSError: If a symbolic link is in the way, or the file is not a regular one (a pipe, a
            device) or cannot be opened.
    """
    # Without O_NONBLOCK, opening a pipe would wait for its other end.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags | (os.O_CREAT if create else 0), 0o666)
    except OSError:
        if not path.is_symlink():
            raise
        handle = -1
    # Outside the handler, since the message of the system, "too many levels", is misleading.
    if handle < 0:
        raise OSError(errno.ELOOP, _LINK, str(path))
    return os.fdopen(_regular(handle, path), "r+b")


def open_to_append(path: Path) -> IO[bytes]:
    """Open a log for appending, possibly by several processes; a new one is empty.

    Args:
        path: The file.

    Raises:
        OSError: If a symbolic link is in the way, it is not a regular file, or cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(_regular(os.open(path, flags, 0o666), path), "ab")


def open_to_read(path: Path) -> BufferedReader:
    """Open a regular file for reading, following links; pipes and devices are never opened.

    Args:
        path: The file.

    Raises:
        OSError: If it is not a regular file (a pipe would wait for a writer), or cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a device can have an effect
        raise OSError(errno.EINVAL, _NO_FILE, str(path))
    return os.fdopen(
        _regular(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path), "rb"
    )


def is_part(name: str) -> bool:
    """Return whether a name is that of one of our temporary files.

    Example:
        >>> is_part(".last.pt.0123456789abcdef.part"), is_part(".last.part")
        (True, False)
    """
    return _PART.fullmatch(name) is not None


def remove_parts(path: Path) -> None:
    """Remove temporary files of killed processes; no other process may be writing the file.

    Args:
        path: The file that they were to become.
    """
    with suppress(OSError):
        for each in path.parent.iterdir():
            match = _PART.fullmatch(each.name)
            if match and match["name"] == path.name:
                each.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that a power failure does not undo a renaming."""
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
