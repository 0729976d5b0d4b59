"""Lease files, each created by only one process and with the time of its last renewal."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from famseg.files import open_to_read, parse_json
from famseg.messages import InputError
from famseg.runs._owner import Owner

_NAME = re.compile(r"lease-([1-9][0-9]{0,8})\.json")
_LONGEST = 10_000  # bytes; leases have some hundred
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True)
class LeaseFile:
    """A lease in a folder.

    Attributes:
        path: The file.
        number: The number in its name.
        key: A unique value that identifies it.
        beat: Time of the last renewal, by the clock of the file system, in seconds.
        owner: The process that created it; None if the file is not a valid lease.
    """

    path: Path
    number: int
    key: str
    beat: float
    owner: Owner | None

    @property
    def near(self) -> bool:
        """Whether its owner is on this machine and in this container."""
        return self.owner is not None and self.owner.near

    @property
    def gone(self) -> bool:
        """Whether its owner was on this machine and has ended."""
        return self.owner is not None and self.owner.near and not self.owner.exists


def is_lease(name: str) -> bool:
    """Return whether a file has the name of a lease."""
    return _NAME.fullmatch(name) is not None


def leases(folder: Path) -> list[LeaseFile]:
    """Return the leases in a folder.

    Raises:
        InputError: If something other than a regular file has the name of one.
        OSError: If the folder is missing or cannot be read.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if is_lease(entry.name))
    return [found for name in names if (found := look(folder / name)) is not None]


def look(path: Path) -> LeaseFile | None:
    """Return the lease in a file; None if it does not or no longer exist.

    Raises:
        InputError: If it is a link, or cannot be read.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    try:
        if path.is_symlink():
            raise InputError(f"{path}: is a link in place of the lease of the run. Remove it.")
        with open_to_read(path) as file:
            stat = os.fstat(file.fileno())
            data = file.read(_LONGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Remove it.") from error
    try:
        content = parse_json(data) if len(data) <= _LONGEST else None
    except ValueError:
        content = None
    owner = Owner.read(content) if isinstance(content, dict) else None
    key = owner.token if owner else f"file {stat.st_ino}"
    return LeaseFile(path, int(match[1]), key, stat.st_mtime, owner)


def create(folder: Path, number: int, owner: Owner) -> Path | None:
    """Create a new lease with its complete content.

    Returns:
        The lease; None if one with this number exists.

    Raises:
        InputError: If the number is not valid for a lease.
        OSError: If the folder is missing or cannot be written to.
    """
    path = folder / f"lease-{number}.json"
    if not is_lease(path.name):  # others would ignore it
        raise InputError(f"{folder}: lease-{number - 1}.json was not written by famseg. Remove it.")
    content = json.dumps(owner.as_dict(), indent=2).encode() + b"\n"
    part = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    try:
        _write_new(part, content)
        try:
            os.link(part, path)
        except FileExistsError:
            # A file server may have created the link, but its reply was lost and the request
            # repeated.
            return path if part.stat().st_nlink == 2 else None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A disk without hard links. Until it is written, the file counts as one from elsewhere.
            _write_new(path, content)
    except FileExistsError:
        return None
    finally:
        part.unlink(missing_ok=True)
    return path


def time_of(folder: Path) -> float:
    """Return the time in seconds by the clock of a folder's file system."""
    part = folder / f".lease.{os.urandom(8).hex()}.part"
    try:
        part.touch(exist_ok=False)
        return part.stat().st_mtime
    finally:
        part.unlink(missing_ok=True)


def _write_new(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
