"""Pickles of arrays and plain containers, read without running anything that they name.

A pickle is a program: it may call any function of any module. Here each of the few names that an
array needs stands for a class of this module that only keeps what it is given; every other name is
refused before anything was imported or called. numpy's own unpickling is not used either.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from famseg.config import InputError
from famseg.datasets._images_files import AGAIN

# What damaged bytes make of an unpickler: it has no error of its own for most of them.
_BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    SystemError,
    TypeError,
    ValueError,
    struct.error,
)


class _Type:
    """Stands for a numpy data type."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = _text(code)
        self.order = ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1]).strip("|")

    def build(self) -> np.dtype[Any]:
        """Return the type; whole numbers alone."""
        if self.code not in {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}:
            raise ValueError(f"type {self.code!r}")
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for a numpy array, as pickled from numpy 1 and 2 with any protocol."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def build(self) -> NDArray[Any]:
        """Return the array, read-only."""
        _, shape, kind, fortran, raw = self.state
        content = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        values = np.frombuffer(content, dtype=cast("_Type", kind).build())
        if min(shape, default=0) < 0 or math.prod(shape) != values.size:
            raise ValueError(f"{values.size} values for shape {shape}")
        return values.reshape(shape, order="F" if fortran else "C")


class _Buffer(_Array):
    """Stands for what numpy calls to make an array from protocol 5."""

    def __init__(self, raw: object, kind: object, shape: object, order: object) -> None:
        self.state = (1, shape, kind, _text(order) == "F", raw)


class _Number(_Array):
    """Stands for a numpy scalar."""

    def __init__(self, kind: object, raw: object) -> None:
        self.state = (1, (), kind, False, raw)


class _Latin1(bytes):
    """Stands for the call by which old protocols keep bytes."""

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


class _NameRefusedError(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _NameRefusedError(f"{module}.{name}") from None


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """Return the mapping that a pickle holds.

    Args:
        content: The pickle, of any protocol, from Python 2 or 3.
        where: Name of the file, for messages.

    Returns:
        Values by key: arrays of whole numbers, lists of numbers and texts, and what else is plain.

    Raises:
        InputError: If it is damaged, holds no mapping, or names anything but arrays.

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
            f"{where}: wants to run {name!r}, which no file of pictures needs: nothing of it was "
            "run; leave the file aside"
        ) from error
    except _BROKEN as error:
        raise InputError(
            f"{where}: no pickle of pictures, cut short or damaged: {AGAIN}"
        ) from error


def _value(value: object) -> object:
    if isinstance(value, _Array):
        return value.build()
    if isinstance(value, list):
        return [_item(item) for item in value]
    return value


def _item(item: object) -> object:
    if isinstance(item, _Array):
        return item.build().item()
    return _text(item) if isinstance(item, bytes) else item


def _text(text: object) -> str:
    if isinstance(text, bytes):
        return text.decode("latin1")
    if isinstance(text, str):
        return text
    raise TypeError(f"{type(text).__name__} in place of a text")
