"""What the header of an NRRD or MetaImage file leaves open; readers fill it in without a word."""

from __future__ import annotations

from pathlib import Path

from famseg.config import InputError

_HEADER_BYTES = 2**16
# How each format parts key from value, and where its header ends.
_NRRD, _META_IMAGE = (b":", b"\n\n"), (b"=", b"ElementDataFile")
_FORMATS = {".nrrd": _NRRD, ".nhdr": _NRRD, ".mha": _META_IMAGE, ".mhd": _META_IMAGE}
_SPACING = {"spacings", "space directions", "elementspacing", "elementsize"}
_DIRECTION = {"space directions", "transformmatrix", "orientation", "rotation"}


def check_stated(path: Path) -> tuple[str, ...]:
    """Refuse a volume without spacing, and note one without direction.

    Readers take 1 mm and axes to the left, the back and the top. A wrong size makes every number
    wrong; wrong axes exchange left and right, which nobody sees in a skull. NIfTI files are checked
    where they are read.

    Args:
        path: The file; other formats state both.

    Returns:
        A note for the report, or nothing.

    Raises:
        InputError: If there is no spacing; the message has no place in front.
    """
    if path.suffix.lower() not in _FORMATS:
        return ()
    mark, end = _FORMATS[path.suffix.lower()]
    with path.open("rb") as stream:
        header = stream.read(_HEADER_BYTES).replace(b"\r\n", b"\n").partition(end)[0]
    keys = {
        line.partition(mark)[0].decode("latin-1").strip().lower() for line in header.split(b"\n")
    }
    if not keys & _SPACING:
        raise InputError(
            "the header states no spacing, so the size in mm is not known: add it (spacings in "
            "NRRD, ElementSpacing in MetaImage)"
        )
    if keys & _DIRECTION:
        return ()
    return (
        "The header states no direction: axes were taken to lead to the left, the back and the "
        "top. Look whether left and right are right.",
    )
