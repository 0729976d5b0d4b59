"""Mutations of valid files: cut, changed, repeated, with numbers written where sizes may be."""

from __future__ import annotations

import struct

from hypothesis import strategies as st
from seeds import seeds

_LARGEST = 2**18
_NUMBERS = (0, 1, 2, 3, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
_FORMATS = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q", "<f", "<d")
_WORDS = (
    *(b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"../", b"/etc/passwd", b"\n", b"%d"),
    *(b": ", b"{", b"[", b"&a", b"*a", b"<<: ", b"!!python/object", b"\x1b[31m", b"\xff", b"\0"),
)


def _packed(form: str, number: int) -> bytes:
    if form[1] in "fd":
        return struct.pack(form, float(number % 2**60))
    return struct.pack(form, number % 2 ** (8 * struct.calcsize(form)))


_PIECES = st.one_of(
    st.builds(_packed, st.sampled_from(_FORMATS), st.sampled_from(_NUMBERS)),
    st.sampled_from(_WORDS),
    st.binary(max_size=16),
)


@st.composite
def near(draw: st.DrawFn, name: str) -> bytes:
    """Mutations of a seed of a target."""
    content = bytearray(draw(st.sampled_from(seeds(name))))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(0, min(len(content), 4096) - 1)))
        match draw(st.sampled_from(("write", "write", "insert", "remove", "cut", "repeat"))):
            case "write":
                piece = draw(_PIECES)
                content[place : place + len(piece)] = piece
            case "insert":
                content[place:place] = draw(_PIECES)
            case "remove":
                del content[place : place + draw(st.integers(1, 64))]
            case "cut":
                del content[place:]
            case "repeat":
                part = content[place : place + draw(st.integers(1, 64))]
                content[place:place] = part * draw(st.integers(1, 200))
    return bytes(content[:_LARGEST])


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("kind")
)
_KEYS = st.sampled_from(
    ("pipeline", "extends", "lambda", "penalty", "kind", "data", "model", "training", "optimizer",
     "tracking", "seed", "loss", "root", "size", "weight", "channels", "uri")
)  # fmt: skip
VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(_KEYS, st.text()), inner, max_size=5)
    ),
    max_leaves=20,
)
"""Possible documents: the keys of configurations with arbitrary values."""
