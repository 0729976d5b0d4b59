"""Malicious pickles: no code is run, and memory and time are bounded by their size."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
from bounded import cost

from famseg.datasets.images._pickle import read_pickle

DAMAGED = "x: is not a pickle of images, or it is cut short or damaged: copy or download it again"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
BYTES = (
    b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)


def nested(leaf: bytes, memo: int) -> bytes:
    """A tuple of two of a tuple of two ..., 60 deep, left on the stack."""
    parts = [leaf]
    for level in range(60):
        slot = bytes([memo + level])
        parts += [b"q", slot, b"h", slot, b"\x86"]  # keep it, fetch it, pair both
    return b"".join(parts)


def array(shape: bytes, raw: bytes) -> bytes:
    return ARRAY + b"(K\x01" + shape + BYTES + b"K\x00" + raw + b"tb"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x80\x02}" + nested(b")", 0) + b"K\x01s.", id="a key that is never hashed"),
        pytest.param(b"\x80\x02" + b"(" + nested(b")", 0) + b"K\x01d.", id="the same in DICT"),
        pytest.param(b"\x80\x02}(" + nested(b")", 0) + b"K\x01u.", id="the same in SETITEMS"),
        pytest.param(
            b"\x80\x02}U\x04data"
            + array(nested(b"K\x01", 0) + nested(b"K\x01", 100) + b"\x86", b"U\x01x")
            + b"s.",
            id="a shape that is never compared",
        ),
        pytest.param(
            b"\x80\x02}U\x04data" + array(b"K\x01\x85", b"\x8a\x05\x00\x00\x00\x00\x10") + b"s.",
            id="2^36 bytes out of a number",
        ),
        pytest.param(
            b"\x80\x04}\x8c\x04data\x8e" + struct.pack("<Q", 2**40) + b"xs.", id="2^40 bytes"
        ),
        pytest.param(b"\x80\x05}\x96" + struct.pack("<Q", 2**31) + b".", id="2^31 changing bytes"),
        pytest.param(b"\x80\x05}\x96" + b"\xff" * 8 + b".", id="2^64 changing bytes"),
        pytest.param(b"\x80\x02}U\x04data" + nested(b"]", 0) + b"s.", id="a list of lists"),
        pytest.param(b"\x80\x02}U\x04datacbuiltins\nint\n\x81s.", id="a name that is refused"),
        pytest.param(b"(i__main__\nx\n.", id="INST"),
        pytest.param(b"\x80\x02\x82\x01.", id="EXT1"),
        pytest.param(b"\x80\x04\x8f.", id="EMPTY_SET"),
        pytest.param(b"\x80\x02}22222222222222222222.", id="DUP"),
        pytest.param(b"\x80\x05\x97.", id="NEXT_BUFFER"),
        pytest.param(b"\x80\x02]" + b"(" * 100_000 + b"t" * 99_000 + b".", id="deep"),
    ],
)
def test_hostile_pickles_are_refused_at_once(content: bytes) -> None:
    found = cost(lambda: read_pickle(content, "x"))
    assert found.fault is not None
    assert found.fault == DAMAGED or found.fault.startswith("x: wants to run 'builtins.int'")
    assert found.mib < 50
    assert found.seconds < 5


def test_a_place_in_the_memo_takes_no_room_for_those_before_it() -> None:
    found = cost(lambda: read_pickle(b"\x80\x02}r\xff\xff\xff\x7f.", "x"))
    assert found.fault is None
    assert found.mib < 50, "the unpickler in C takes 32 GiB"


def test_a_large_array_in_a_list_is_no_number() -> None:
    large = pickle.dumps({"labels": [np.arange(3, dtype=np.uint8)]}, protocol=2)
    assert cost(lambda: read_pickle(large, "x")).fault == DAMAGED
    small = pickle.dumps({"labels": [np.int64(7), 8, b"cat", "dog", None]}, protocol=2)
    assert read_pickle(small, "x") == {"labels": [7, 8, "cat", "dog", None]}


def test_numbers_of_many_bytes_are_refused() -> None:
    scalar = b"cnumpy.core.multiarray\nscalar\n(" + BYTES
    content = b"\x80\x02}U\x06labels](" + scalar + b"T" + struct.pack("<i", 2**20) + bytes(2**20)
    assert cost(lambda: read_pickle(content + b"tRes.", "x")).fault == DAMAGED
