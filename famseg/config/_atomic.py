"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves either the old content or the new one, never a part.

    The file has the permissions that the user's umask gives. What is half written has a name that
    nobody can guess, and is never written through a link that somebody put there.

    Args:
        path: The file.
        content: All that it shall hold.

    Raises:
        OSError: If it cannot be written; the old content stays.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
