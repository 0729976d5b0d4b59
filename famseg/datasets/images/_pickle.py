"""Safe reading of pickles of arrays and plain containers.

A pickle is a program: it may call any function of any module. Here the few names that an array
needs are replaced by classes of this module that only store their arguments. Every other name is
refused before anything is imported or called, and so is anything that could take unbounded memory
or time. numpy's own unpickling is not used either.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from famseg.datasets.images._files import AGAIN
from famseg.messages import DAMAGED, InputError

_LARGEST_NUMBER = 16  # bytes


class _Type:
    """Represents a numpy data type."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = _text(code)
        self.order = ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1]).strip("|")

    def build(self) -> np.dtype[Any]:
        """Return the type, which must be an integer type."""
        if self.code not in {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}:
            raise ValueError(f"type {self.code!r}")
        return np.dtype(self.order + self.code)


class _Array:
    """Represents a numpy array, as pickled from numpy 1 and 2 with any protocol."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def build(self) -> NDArray[Any]:
        """Return the array, read-only."""
        _, shape, kind, fortran, raw = self.state
        if not isinstance(raw, str | bytes | bytearray) or not isinstance(kind, _Type):
            raise TypeError("no array of numbers")
        # Checked separately, since comparing a value that contains itself never ends.
        if not all(type(n) is int and n >= 0 for n in shape):
            raise TypeError("no shape")
        content = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        values = np.frombuffer(content, dtype=kind.build())
        if math.prod(shape) != values.size:
            raise ValueError(f"{values.size} values for shape {shape}")
        return values.reshape(shape, order="F" if fortran else "C")


class _Buffer(_Array):
    """Represents the function that numpy calls to create an array with protocol 5."""

    def __init__(self, raw: object, kind: object, shape: object, order: object) -> None:
        self.state = (1, shape, kind, _text(order) == "F", raw)


class _Number(_Array):
    """Represents a numpy scalar."""

    def __init__(self, kind: object, raw: bytes | str) -> None:
        if len(raw) > _LARGEST_NUMBER:  # a list may contain the same one a million times
            raise ValueError(f"a number of {len(raw)} bytes")
        self.state = (1, (), kind, False, raw)


class _Latin1(bytes):
    """Represents the call by which old protocols encode bytes."""

    def __new__(cls, text: str, encoding: str) -> _Latin1:
        if encoding != "latin1":
            raise ValueError(f"encoding {encoding!r}")
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: object) -> None:
        raise ValueError("bytes have no state")


_STAND_INS: dict[tuple[str, str], type] = {
    ("_codecs", "encode"): _Latin1,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
} | {
    (f"numpy.{core}.{module}", name): stand_in
    for core in ("core", "_core")
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", _Array),
        ("multiarray", "scalar", _Number),
        ("numeric", "_frombuffer", _Buffer),
    )
}


# Opcodes in a pickle of arrays and plain containers. None of them creates objects other than by the
# names above, refers to external data, or duplicates values.
_ALLOWED = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1),
    *(pickle.BININT2, pickle.LONG, pickle.LONG1, pickle.LONG4, pickle.FLOAT, pickle.BINFLOAT),
    *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.UNICODE, pickle.BINUNICODE),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINBYTES, pickle.SHORT_BINBYTES),
    *(pickle.BINBYTES8, pickle.BYTEARRAY8, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1),
    *(pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_DICT, pickle.DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
    *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD),
)


class _NameRefusedError(Exception):
    pass


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python; four bytes can make the one in C allocate 64 GiB for its memo."""

    if TYPE_CHECKING:
        stack: list[Any]

        def pop_mark(self) -> list[Any]: ...
        def read(self, size: int) -> bytes: ...
        def append(self, value: object) -> None: ...

    def find_class(self, module: str, name: str) -> type:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _NameRefusedError(f"{module}.{name}") from None

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [key, value])

    def _set_items(self) -> None:
        items = self.pop_mark()
        _put(self.stack[-1], items)

    def _bytes(self) -> None:
        # Python's version allocates and fills the stated size before it reads.
        (size,) = struct.unpack("<Q", self.read(8))
        content = self.read(min(size, sys.maxsize))
        if len(content) != size:
            raise EOFError
        self.append(content)

    def _mapping(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        _put(self.stack[-1], items)

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]] for code in _ALLOWED
    } | {
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _mapping,
        pickle.BYTEARRAY8[0]: _bytes,
    }


def _put(mapping: object, items: Sequence[object]) -> None:
    """Insert alternating keys and values into a mapping."""
    # Hashing deeply nested tuples with shared items takes exponential time.
    if type(mapping) is not dict or not all(isinstance(key, str | bytes) for key in items[::2]):
        raise TypeError("no mapping of texts")
    mapping.update(zip(items[::2], items[1::2], strict=True))


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """Return the mapping in a pickle.

    Args:
        content: The pickle, of any protocol, from Python 2 or 3.
        where: Name of the file, for messages.

    Returns:
        Values by key: arrays of whole numbers, lists of numbers and texts, and other plain values.

    Raises:
        InputError: If it is damaged, contains no mapping, or refers to anything but arrays.

    Example:
        >>> read_pickle(pickle.dumps({b"labels": [3, np.int64(7)]}), "a")
        {'labels': [3, 7]}
    """
    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(found, dict):
            raise TypeError
        return {_text(key): _value(value) for key, value in found.items()}
    except _NameRefusedError as error:
        name = str(error)[:80]
        raise InputError(
            f"{where}: wants to run {name!r}, which no file of images needs: none of its code "
            "was run; do not use the file"
        ) from error
    except (pickle.UnpicklingError, *DAMAGED) as error:
        raise InputError(
            f"{where}: is not a pickle of images, or it is cut short or damaged: {AGAIN}"
        ) from error


def _value(value: object) -> object:
    if isinstance(value, _Array):
        return value.build()
    return [_item(item) for item in value] if isinstance(value, list) else _item(value)


def _item(item: object) -> object:
    if isinstance(item, _Number):
        return item.build().item()
    if item is None or isinstance(item, int | float | str):
        return item
    return _text(item)


def _text(text: object) -> str:
    if isinstance(text, bytes):
        return text.decode("latin1")
    if isinstance(text, str):
        return text
    raise TypeError(f"{type(text).__name__} in place of a text")
