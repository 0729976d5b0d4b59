"""Safe unpacking of untrusted archives."""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from famseg.files._tar import TAR_DAMAGED, open_tar, unsafe_name
from famseg.messages import InputError

MAX_MEMBER_BYTES = 4 * 2**30
"""Members that are larger than this, as stated or when unpacked, are refused."""

ZIP_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
)
"""Exceptions raised when a damaged archive is read, in addition to OSError of the disk."""

MAX_RATIO = 500
"""Members above 256 MiB with a larger compression ratio are refused. Masks reach 200."""

_RATIO_FROM_BYTES = 2**28
_CHUNK = 2**20


def safe_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the files in an archive.

    Raises:
        InputError: If any member is unsafe; the message does not name the file.
    """
    members = [info for info in archive.infolist() if not info.is_dir()]
    for info in archive.infolist():
        fault = unsafe_name(info.filename)
        if stat.S_ISLNK(info.external_attr >> 16):
            fault = "a member is a symbolic link"
        if fault is not None:
            raise InputError(f"the archive is not safe to unpack: {fault}; do not use it")
    for info in members:
        _check_size(info)
        if info.flag_bits & 1:
            raise InputError("the archive is encrypted: unpack it first")
    # Members may overlap in the file, although each of them looks correct.
    _check_ratio(sum(i.file_size for i in members), archive.start_dir, "its members unpack")
    return members


def extract_members(wanted: Sequence[tuple[Path, str | None]], folder: Path) -> list[Path]:
    """Unpack members of ZIP archives, each under its own name.

    Args:
        wanted: Archive and member; the member is None for a file that is not in an archive.
        folder: The folder to write to.

    Returns:
        One path for each.

    Raises:
        InputError: If one cannot be unpacked; the message does not name the file.
    """
    paths: list[Path] = []
    archives: dict[Path, zipfile.ZipFile] = {}
    try:
        for number, (file, member) in enumerate(wanted):
            if member is None:
                paths.append(file)
                continue
            if file not in archives:
                archives[file] = zipfile.ZipFile(file)
                safe_members(archives[file])
            below = folder / f"{number}"
            below.mkdir()
            target = below / PurePosixPath(member.replace("\\", "/")).name
            with archives[file].open(member) as source:
                _copy(source, target, MAX_MEMBER_BYTES)
            paths.append(target)
    except (OSError, *ZIP_DAMAGED) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a negative offset
            raise
        raise InputError("the archive is damaged: copy it again") from error
    finally:
        for archive in archives.values():
            archive.close()
    return paths


def extract_tar(path: Path, folder: Path, endings: Iterable[str]) -> dict[str, Path]:
    """Unpack the files of a tar archive that have certain endings.

    Args:
        path: A tar archive, plain or compressed with gzip.
        folder: The folder to write to. The folders within the archive are ignored.
        endings: The suffixes of the files to unpack, which may have 4 GiB in total.

    Returns:
        Paths by the files' own names.

    Raises:
        InputError: If the archive is damaged or unsafe; the message does not name the file.
    """
    found: dict[str, Path] = {}
    left = MAX_MEMBER_BYTES
    try:
        with open_tar(path, MAX_MEMBER_BYTES) as members:
            for member, archive in members:
                name = PurePosixPath(member.name).name
                source = archive.extractfile(member) if name.endswith(tuple(endings)) else None
                if source is not None:
                    found[name] = folder / name
                    with source:
                        left -= _copy(source, folder / name, left)
    except TAR_DAMAGED as error:
        raise InputError("not a tar archive, cut short or damaged: copy it again") from error
    return found


def _check_size(info: zipfile.ZipInfo) -> None:
    if info.file_size > MAX_MEMBER_BYTES:
        raise InputError(_too_large(info.file_size, MAX_MEMBER_BYTES))
    _check_ratio(info.file_size, info.compress_size, "a member unpacks")


def _check_ratio(size: int, packed: int, what: str) -> None:
    if size > _RATIO_FROM_BYTES and size > MAX_RATIO * max(packed, 1):
        raise InputError(
            f"{what} to {size} bytes, {MAX_RATIO} times its size or more: this may be an archive "
            "made to fill the disk; do not use it"
        )


def _too_large(size: int, limit: int) -> str:
    return (
        f"a member has {size} bytes or more, more than {limit}: this may be an archive made to "
        "fill the disk; unpack it yourself if you trust it"
    )


def _copy(source: IO[bytes], target: Path, limit: int) -> int:
    """Copy at most ``limit`` bytes, regardless of the stated size, and return their number."""
    size = 0
    try:
        with target.open("wb") as stream:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > limit:
                    raise InputError(_too_large(size, limit))
                stream.write(chunk)
    except OSError as error:
        if error.errno is None:
            raise
        raise InputError(
            f"cannot be unpacked to the temporary folder ({error.strerror}): free some space, or "
            "set TMPDIR to another folder"
        ) from error
    return size
