"""Files of torch with tensors and plain values, read without running anything that they name."""

from __future__ import annotations

import itertools
import pickle
import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from famseg.files._atomic import open_to_read
from famseg.messages import DAMAGED, visible

_MOST_PICKLE_BYTES = 2**26  # names, numbers and shapes; tensors lie beside it
_DEEPEST = 8  # of tuples in tuples: to hash them takes twice as long with each
_OLD_PICKLES = 5  # that a file of before 2020 begins with
_ARCHIVE = b"PK\x03\x04"  # by which torch tells its two formats apart
_FOLDER = 0x10  # among the attributes of a part, as MS-DOS has them
_TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_NOT_PLAIN = "holds more than tensors and plain values; nothing of it was run"
_FAULTS = (pickle.UnpicklingError, RuntimeError, OSError, zipfile.BadZipFile, *DAMAGED)


class NotPlainError(Exception):
    """The file cannot be used; the message says why on one line, without a place in front."""


def load_plain(path: Path, *, checksums: bool = False) -> Any:  # noqa: ANN401 - whatever was saved
    """Return what ``torch.save`` wrote, on the CPU.

    Args:
        path: The file, of either of torch's formats.
        checksums: Whether those of its parts are compared, about a second for a GB; torch itself
            never does, so that a flipped bit becomes a weight of 1e37. Files of other programs may
            have been written without.

    Raises:
        NotPlainError: If it is damaged, holds more than tensors and plain values, or would take
            memory or time beyond its size.
        FileNotFoundError: If there is none.
    """
    with _faults_in_one_line():
        _check(path, checksums=checksums)
        return torch.load(path, map_location="cpu", weights_only=True)


def check_file(path: Path) -> None:
    """Check that to load a file of ``torch.save`` takes no memory or time beyond its size.

    Args:
        path: The file; another program loads it.

    Raises:
        NotPlainError: If it would, or is damaged.
        FileNotFoundError: If there is none.
    """
    with _faults_in_one_line():
        _check(path)


@contextmanager
def _faults_in_one_line() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except _FAULTS as error:
        said = getattr(error, "strerror", None) or str(error)
        reason = said.partition("\n")[0].partition(". ")[0] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:
            reason = _NOT_PLAIN  # torch's own words tell people to load it unsafely
        raise NotPlainError(visible(reason)) from error


def _check(path: Path, *, checksums: bool = False) -> None:
    with open_to_read(path) as stream:  # a pipe would wait, and a device may never end
        archive = stream.read(4) == _ARCHIVE
        stream.seek(0)
        if archive:
            _check_archive(path, checksums=checksums)
        else:
            _check_pickles(stream)


def _check_archive(path: Path, *, checksums: bool) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # torch packs nothing; a packed member stands for up to a thousand times its size.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its parts are packed, as torch packs none")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        # To torch such a part is empty, whatever lies there: it would leave the memory as it
        # was. One flipped bit makes a folder of a tensor, and no checksum counts it.
        if any(member.external_attr & _FOLDER for member in members):
            raise ValueError("one of its parts is marked as a folder")
        damaged = archive.testzip() if checksums else None
        if damaged is not None:
            raise ValueError(f"the checksum of its part {damaged} is wrong: bytes have changed")
        for member in members:
            if member.filename.endswith(".pkl"):
                if member.file_size > _MOST_PICKLE_BYTES:
                    raise ValueError(f"{member.file_size} bytes of plain values")
                with archive.open(member) as stream:
                    _check_depth(pickletools.genops(stream))


def _check_pickles(stream: IO[bytes]) -> None:
    for _ in range(_OLD_PICKLES):
        operations = pickletools.genops(stream)
        try:
            first = next(operations)
        except ValueError:
            return  # torch says what is wrong
        _check_depth(itertools.chain([first], operations))


def _check_depth(operations: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> None:
    """Refuse tuples nested so deep that hashing one would not end; nothing is built."""
    stack: list[int] = []  # how deep each value on it is; -1 is a mark
    memo: dict[int, int] = {}
    for code, argument, _ in operations:
        name = code.name
        if "GET" in name:
            stack.append(memo[argument])
        elif "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            below = _taken(stack, code)
            deep = 1 + max(below, default=0) if name in _TUPLES else 0
            if deep > _DEEPEST:
                raise ValueError(f"tuples nested more than {_DEEPEST} deep")
            stack += [-1 if name == "MARK" else deep] * len(code.stack_after)


def _taken(stack: list[int], code: pickletools.OpcodeInfo) -> list[int]:
    """Take off the stack what an operation takes, and return how deep each was."""
    before = [each for each in code.stack_before if each.name not in ("mark", "stackslice")]
    taken: list[int] = []
    if len(before) < len(code.stack_before):
        while (deep := stack.pop()) >= 0:
            taken.append(deep)
    return taken + [stack.pop() for _ in before]
