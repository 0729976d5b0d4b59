"""The size of the image in a compressed slice, read before it is decoded."""

from __future__ import annotations

import struct
from pathlib import Path

import pydicom
from pydicom.encaps import generate_fragments
from pydicom.uid import UID, RLELossless

from famseg.messages import InputError
from famseg.preparation.dicom._slice import Slice

# JPEG and JPEG-LS (ISO/IEC 10918-1, table B.1, and 14495-1): frame headers contain the size.
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_START = b"\xff\xd8"
_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
# JPEG 2000 (ISO/IEC 15444-1, annex A.5.1): the codestream begins with the size.
_START_2000 = b"\xff\x4f\xff\x51"
_BOXES = 1024  # bytes within which the boxes before the codestream end


def check_compressed(part: Slice, path: Path) -> None:
    """Check that a JPEG, JPEG-LS or JPEG 2000 image has the size stated in the DICOM header.

    Decoders trust the compressed data, where a kilobyte can announce an image of gigabytes.

    Args:
        part: The slice.
        path: Its file.

    Raises:
        InputError: If the image has another size.
    """
    syntax = UID(part.syntax)
    if not syntax.is_encapsulated or syntax == RLELossless:
        return
    data = pydicom.dcmread(path, force=True, specific_tags=["PixelData"])
    try:
        _offsets, *fragments = generate_fragments(data.PixelData)
    except (AttributeError, ValueError):
        return  # no pixels, or no fragments: nothing is decoded
    size = coded_size(b"".join(fragments))
    if size is not None and size != part.size:
        raise InputError(
            f"{part.shown} holds an image of {size[0]} x {size[1]} pixels, its header announces "
            f"{part.size[0]} x {part.size[1]}: the file is damaged; copy it again"
        )


def coded_size(stream: bytes) -> tuple[int, int] | None:
    """Return the width and height of a compressed image in pixels; None if they are not stated.

    Args:
        stream: The beginning of a JPEG, JPEG-LS or JPEG 2000 image, or of any other data.
    """
    try:
        if stream.startswith(_START):
            return _size_of_jpeg(stream)
        if (start := stream.find(_START_2000, 0, _BOXES)) >= 0:
            right, low, left, top = struct.unpack_from(">4I", stream, start + 8)
            return right - left, low - top
    except (IndexError, struct.error):
        pass  # truncated: nothing is decoded
    return None


def _size_of_jpeg(stream: bytes) -> tuple[int, int] | None:
    """Return the size in the first frame header, found by following the markers."""
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
