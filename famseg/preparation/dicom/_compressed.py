"""The size of the image in a compressed slice, read before it is decoded."""

from __future__ import annotations

import struct
from pathlib import Path

import pydicom
from pydicom.encaps import generate_fragments
from pydicom.uid import UID, RLELossless

from famseg.messages import InputError
from famseg.preparation.dicom._slice import Slice

# JPEG and JPEG-LS, ISO/IEC 10918-1 table B.1 and 14495-1: frame headers, which have the size.
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_START = b"\xff\xd8"
_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
# JPEG 2000, ISO/IEC 15444-1 annex A.5.1: the code stream begins with its size.
_START_2000 = b"\xff\x4f\xff\x51"
_BOXES = 1024  # bytes, in which the boxes of a file around it end


def check_compressed(part: Slice, path: Path) -> None:
    """Check that a slice that contains a JPEG, JPEG-LS or JPEG 2000 has the size of its header.

    Decoders trust the compressed data, in which a kilobyte can announce gigabytes.

    Args:
        part: The slice.
        path: Its file.

    Raises:
        InputError: If there is an image of another size.
    """
    syntax = UID(part.syntax)
    if not syntax.is_encapsulated or syntax == RLELossless:
        return
    data = pydicom.dcmread(path, force=True, specific_tags=["PixelData"])
    try:
        _offsets, *fragments = generate_fragments(data.PixelData)
    except (AttributeError, ValueError):
        return  # no pixels, or none in fragments: nothing is decoded
    size = coded_size(b"".join(fragments))
    if size is not None and size != part.size:
        raise InputError(
            f"{part.shown} holds an image of {size[0]} x {size[1]} pixels, its header announces "
            f"{part.size[0]} x {part.size[1]}: the file is damaged; copy it again"
        )


def coded_size(stream: bytes) -> tuple[int, int] | None:
    """Return how many pixels a compressed image has across and down; None if it says nothing.

    Args:
        stream: The beginning of a JPEG, JPEG-LS or JPEG 2000, or of something else.
    """
    try:
        if stream.startswith(_START):
            return _size_of_jpeg(stream)
        if (start := stream.find(_START_2000, 0, _BOXES)) >= 0:
            right, low, left, top = struct.unpack_from(">4I", stream, start + 8)
            return right - left, low - top
    except (IndexError, struct.error):
        pass  # cut short: nothing is decoded
    return None


def _size_of_jpeg(stream: bytes) -> tuple[int, int] | None:
    """Go from marker to marker up to the first frame header."""
    place = len(_START)
    while True:
        while stream[place] != 0xFF:  # decoders skip bytes between markers
            place += 1
        while stream[place] == 0xFF:
            place += 1
        marker = stream[place]
        place += 1
        if marker in _FRAME_HEADERS:
            down, across = struct.unpack_from(">2H", stream, place + 3)
            return across, down
        if marker not in _NO_LENGTH:
            place += struct.unpack_from(">H", stream, place)[0]
