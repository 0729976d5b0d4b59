"""Safe loading of files of ``torch.save`` that contain only tensors and plain values."""

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

_MOST_PICKLE_BYTES = 2**26  # names, numbers and shapes; tensors are stored separately
_DEEPEST = 8  # nesting of tuples; each level doubles the time for hashing
_OLD_PICKLES = 5  # the first bytes of a file from before 2020
_ARCHIVE = b"PK\x03\x04"  # by which torch distinguishes its two formats
_FOLDER = 0x10  # flag in the MS-DOS attributes of a member
_TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_NOT_PLAIN = "contains more than tensors and plain values; none of its code was run"
_FAULTS = (pickle.UnpicklingError, RuntimeError, OSError, zipfile.BadZipFile, *DAMAGED)


class NotPlainError(Exception):
    """The file cannot be used; the message says why on one line, without naming the file."""


def load_plain(path: Path, *, checksums: bool = False) -> Any:  # noqa: ANN401 - any saved value
    """Return the content of a file of ``torch.save``, on the CPU.

    Args:
        path: The file, of either of torch's formats.
        checksums: Whether to verify the checksums of its members, which takes about a second per
            GB. Torch does not do this, so that a flipped bit can become a weight of 1e37. Other
            programs may write files without checksums.

    Raises:
        NotPlainError: If it is damaged, contains more than tensors and plain values, or would need
            memory or time out of proportion to its size.
        FileNotFoundError: If the file does not exist.
    """
    with _faults_in_one_line():
        _check(path, checksums=checksums)
        return torch.load(path, map_location="cpu", weights_only=True)


def check_file(path: Path) -> None:
    """Check that loading a file of ``torch.save`` needs memory and time in proportion to its size.

    Args:
        path: The file, which another program will load.

    Raises:
        NotPlainError: If it needs more, or is damaged.
        FileNotFoundError: If the file does not exist.
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
            reason = _NOT_PLAIN  # torch's message advises unsafe loading
        raise NotPlainError(visible(reason)) from error


def _check(path: Path, *, checksums: bool = False) -> None:
    with open_to_read(path) as stream:  # a pipe would block, and a device may never end
        archive = stream.read(4) == _ARCHIVE
        stream.seek(0)
        if archive:
            _check_archive(path, checksums=checksums)
        else:
            _check_pickles(stream)


def _check_archive(path: Path, *, checksums: bool) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # Torch does not compress; a compressed member can unpack to a thousand times its size.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its parts are compressed, which torch never does")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        # Torch treats such a member as empty and would leave the memory uninitialized. A single
        # flipped bit, which no checksum covers, turns a tensor into a folder.
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
            return  # torch reports the error
        _check_depth(itertools.chain([first], operations))


def _check_depth(operations: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> None:
    """Refuse tuples nested so deeply that hashing would never finish, without building them."""
    stack: list[int] = []  # depth of each value on the stack; -1 is a mark
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
    """Pop the operands of an operation from the stack, and return their depths."""
    before = [each for each in code.stack_before if each.name not in ("mark", "stackslice")]
    taken: list[int] = []
    if len(before) < len(code.stack_before):
        while (deep := stack.pop()) >= 0:
            taken.append(deep)
    return taken + [stack.pop() for _ in before]
