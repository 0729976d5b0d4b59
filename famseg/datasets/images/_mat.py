"""Reading of numeric arrays from MATLAB files of version 5.

scipy reads them as well, but its reader ends the whole process on some damaged files.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from famseg.datasets.images._files import AGAIN, MAX_FILE_BYTES
from famseg.messages import InputError

_HEADER_BYTES = 128
_CHUNK_BYTES = 2**16  # small, since deflate may expand it a thousandfold
_MATRIX, _COMPRESSED = 14, 15
_FLAGS, _DIMENSIONS, _NAME = 6, 5, 1
_COMPLEX = 0x800
# Codes of storage types, and of MATLAB classes that are numbers.
_STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_NUMBERS = range(6, 16)


def read_mat(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return arrays of a MATLAB file, which are writable.

    Args:
        path: The file, of version 5 (``save -v6`` or ``-v7``).
        names: Names of the variables.

    Raises:
        InputError: If it is another file, damaged, or does not hold them as arrays of numbers.
    """
    found: dict[str, NDArray[Any]] = {}
    try:
        with path.open("rb") as stream:
            order = _byte_order(path, stream.read(_HEADER_BYTES))
            while tag := stream.read(8):
                name, array = _matrix(_body(stream, tag, order), order)
                if name in names and array is not None:
                    found[name] = array
    except (EOFError, ValueError, OverflowError, struct.error, zlib.error) as error:
        raise InputError(
            f"{path}: is not a MATLAB file, or it is cut short or damaged: {AGAIN}"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(
            f"{path}: contains no array {', '.join(missing)}: it is another file; {AGAIN}"
        )
    return found


def _byte_order(path: Path, header: bytes) -> str:
    order = {b"IM": "<", b"MI": ">"}.get(header[126:])
    if order is None:
        raise ValueError("no header")
    if struct.unpack(f"{order}H", header[124:126])[0] != 0x100:
        raise InputError(
            f"{path}: is a MATLAB file of version 7.3, but version 5 is expected: {AGAIN}"
        )
    return order


def _body(stream: IO[bytes], tag: bytes, order: str) -> memoryview:
    """Return the decompressed content of a variable."""
    kind, size = struct.unpack(f"{order}II", tag)
    if kind == _COMPRESSED:
        return _inflated(stream, size, order)
    if kind != _MATRIX or size > MAX_FILE_BYTES:
        raise ValueError(f"element of kind {kind}")
    body = stream.read(size)
    if len(body) < size:
        raise EOFError
    return memoryview(bytearray(body))


def _inflated(stream: IO[bytes], size: int, order: str) -> memoryview:
    inflate = zlib.decompressobj()
    body = bytearray()
    while size > 0:
        chunk = stream.read(min(_CHUNK_BYTES, size))
        if not chunk:
            raise EOFError
        size -= len(chunk)
        body += inflate.decompress(chunk)
        if len(body) > MAX_FILE_BYTES:
            raise ValueError("too large")
    if not inflate.eof or struct.unpack_from(f"{order}II", body) != (_MATRIX, len(body) - 8):
        raise EOFError
    return memoryview(body)[8:]


def _matrix(body: memoryview, order: str) -> tuple[str, NDArray[Any] | None]:
    """Return name and values of a variable; None if it is not an array of real numbers."""
    parts = list(_parts(body, order))
    if [kind for kind, _ in parts[:3]] != [_FLAGS, _DIMENSIONS, _NAME]:
        raise ValueError("no variable")
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    name = bytes(parts[2][1]).decode("latin1")
    if flags & 0xFF not in _NUMBERS or flags & _COMPLEX or len(parts) != 4:
        return name, None
    kind, raw = parts[3]
    if kind not in _STORED:
        raise ValueError(f"values of kind {kind}")
    shape = np.frombuffer(parts[1][1], dtype=f"{order}i4").tolist()
    values = np.frombuffer(raw, dtype=order + _STORED[kind])
    if min(shape, default=0) < 0 or math.prod(shape) != values.size:
        raise ValueError(f"{values.size} values for {shape}")
    return name, values.reshape(shape, order="F")


def _parts(body: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type and content of each element of a variable; small ones are within their tag."""
    place = 0
    while place < len(body):
        kind, size = struct.unpack_from(f"{order}II", body, place)
        begin, step = place + 8, 8 + size + -size % 8
        if kind >> 16:
            kind, size, begin, step = kind & 0xFFFF, kind >> 16, place + 4, 8
        if begin + size > len(body):
            raise EOFError
        yield kind, body[begin : begin + size]
        place += step
