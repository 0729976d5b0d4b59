from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from bounded import Cost, cost
from dicom_maker import Series
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from famseg.preparation import find_sources
from famseg.preparation.dicom._compressed import coded_size

SLICES = 40


def image(kind: str, across: int, down: int, mode: str = "L", **options: object) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (across, down)).save(out, kind, **options)
    return out.getvalue()


def jpeg_2000(across: int, down: int) -> bytes:
    return image("JPEG2000", across, down, "I;16", no_jp2=True, irreversible=False)


def with_size(code: bytes, across: int, down: int) -> bytes:
    """An image whose header gives a wrong size."""
    if code.startswith(b"\xff\xd8"):
        place, form = code.index(b"\xff\xc0") + 5, ">2H"
        across, down = down, across
    else:
        place, form = code.index(b"\xff\x51") + 6, ">2I"
    return code[:place] + struct.pack(form, across, down) + code[place + struct.calcsize(form) :]


def tried(folder: Path, syntax: str, code: bytes, *, bits: int = 16) -> Cost:
    """Return the cost of reading a series whose slices are this image."""
    Series(np.full((SLICES, 64, 64), -1000, np.int16), [3.5 * k for k in range(SLICES)]).write(
        folder
    )
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.BitsAllocated = data.BitsStored = bits
        data.HighBit, data.PixelRepresentation = bits - 1, 0
        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([code], fragments_per_frame=2)
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.save_as(path)
    return cost(lambda: [source.read() for source in find_sources(folder).sources])


@pytest.mark.parametrize(
    "code",
    [
        image("JPEG", 30, 20),
        image("JPEG", 30, 20, "RGB", progressive=True, comment=b"\xff\xc0" * 9),
        image("JPEG2000", 30, 20),
        image("JPEG2000", 30, 20, "RGB", no_jp2=True),
        bytes.fromhex("ffd8fff7000b100014001e01011100"),  # the beginning of a JPEG-LS
        bytes.fromhex("ffd8 01 ffff ff01 ffd0 ffc10011080014001e"),  # tolerated by decoders
    ],
)
def test_the_size_is_that_of_the_image(code: bytes) -> None:
    assert coded_size(code) == (30, 20)


@pytest.mark.parametrize("size", range(0, 400, 7))
@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_what_is_cut_short_says_nothing_or_its_size(kind: str, size: int) -> None:
    assert coded_size(image(kind, 30, 20)[:size]) in (None, (30, 20))


def test_something_else_says_nothing() -> None:
    assert coded_size(b"") is None
    assert coded_size(bytes(range(256))) is None


def test_a_series_in_jpeg_2000_is_read(tmp_path: Path) -> None:
    assert tried(tmp_path / "ct", JPEG2000Lossless, jpeg_2000(64, 64)).fault is None


@pytest.mark.parametrize(
    ("syntax", "code", "bits", "size"),
    [
        (JPEG2000Lossless, jpeg_2000(1000, 1000), 16, "1000 x 1000"),
        (JPEG2000Lossless, with_size(jpeg_2000(64, 64), 10**5, 10**5), 16, "100000 x 100000"),
        (JPEGBaseline8Bit, with_size(image("JPEG", 64, 64), 65500, 65000), 8, "65500 x 65000"),
        (
            JPEGLSLossless,
            bytes.fromhex("ffd8fff7000b10ffffffff01011100ffda0008010100000000") + bytes(64),
            16,
            "65535 x 65535",
        ),
    ],
)
def test_a_image_larger_than_its_header_is_not_decoded(
    tmp_path: Path, syntax: str, code: bytes, bits: int, size: str
) -> None:
    found = tried(tmp_path / "ct", syntax, code, bits=bits)
    assert found.fault == (
        f"ct: IM0000.dcm holds an image of {size} pixels, its header announces 64 x 64: the file "
        "is damaged; copy it again"
    )
    assert found.mib < 100
    assert found.seconds < 5


def test_what_is_no_image_is_left_to_the_decoder(tmp_path: Path) -> None:
    found = tried(tmp_path / "ct", RLELossless, bytes(128))
    assert found.fault is not None
    assert "cannot be decoded (RLE Lossless)" in found.fault
