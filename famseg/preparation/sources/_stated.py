"""Checks for missing and contradictory values in headers, which libraries silently ignore."""

from __future__ import annotations

import re
from pathlib import Path

from famseg.messages import InputError
from famseg.volumes import forms_disagree, nifti_header, volume_suffix

_HEADER_BYTES = 2**16
_ANATOMICAL = re.compile(
    r"((left|right)-(anterior|posterior)-(superior|inferior)|[LR][AP][SI])(-time|T)?", re.IGNORECASE
)
_SPACES = ("3D-right-handed", "3D-left-handed", "scanner-xyz")  # only these are displayed
# Separator of key and value in each format, and the end of its header.
_NRRD, _META_IMAGE = (b":", b"\n\n"), (b"=", b"ElementDataFile")
_FORMATS = {".nrrd": _NRRD, ".nhdr": _NRRD, ".mha": _META_IMAGE, ".mhd": _META_IMAGE}
_SPACING = {"spacings", "space directions", "elementspacing", "elementsize"}
_DIRECTION = {"space directions", "transformmatrix", "orientation", "rotation"}


def check_stated(path: Path) -> tuple[str, ...]:
    """Refuse a volume without spacing, and return a note if it has no direction.

    Libraries then assume 1 mm and axes to the left, back and top. A wrong spacing makes every
    measurement wrong; wrong axes swap left and right, which is not visible in a skull. NIfTI may
    contain two affines (qform and sform) that contradict each other.

    Args:
        path: The file; formats other than NIfTI, NRRD and MetaImage are not checked.

    Returns:
        A note for the report, if any.

    Raises:
        InputError: If there is no spacing; the message does not begin with a file name.
    """
    if volume_suffix(path) in (".nii", ".nii.gz", ".hdr"):
        return _two_forms(path)
    if path.suffix.lower() not in _FORMATS:
        return ()
    mark, end = _FORMATS[path.suffix.lower()]
    with path.open("rb") as stream:
        header = stream.read(_HEADER_BYTES).replace(b"\r\n", b"\n").partition(end)[0]
    lines = [line.decode("latin-1").partition(mark.decode()) for line in header.split(b"\n")]
    keys = {key.strip().lower(): value.strip() for key, _, value in lines}
    if not keys.keys() & _SPACING:
        raise InputError(
            "the header states no spacing, so the size in mm is not known: add it (spacings in "
            "NRRD, ElementSpacing in MetaImage)"
        )
    if keys.keys() & _DIRECTION:
        nrrd = (mark, end) == _NRRD
        return _without_anatomy(keys.get("space", "")) if nrrd else ()
    return (
        "The header states no direction: axes were assumed to lead to the left, the back and the "
        "top. Check that left and right are correct.",
    )


def _two_forms(path: Path) -> tuple[str, ...]:
    if not forms_disagree(nifti_header(path)):
        return ()
    return (
        "The two matrices of the header disagree (sform and qform): the sform was used. Check that "
        "left and right, and the position, are correct.",
    )


def _without_anatomy(space: str) -> tuple[str, ...]:
    """Return a note on directions in a space that is not anatomical."""
    if _ANATOMICAL.fullmatch(space):
        return ()
    named = f"only {space}" if space in _SPACES else "nothing"
    return (
        f"The header does not say where right, front and top are ({named} is stated): axes were "
        "assumed to lead to the left, the back and the top. Check that left and right are correct.",
    )
