"""Checks for missing and contradictory statements in headers, which readers ignore silently."""

from __future__ import annotations

import re
from pathlib import Path

from famseg.messages import InputError
from famseg.volumes import forms_disagree, nifti_header, volume_suffix

_HEADER_BYTES = 2**16
_ANATOMICAL = re.compile(
    r"((left|right)-(anterior|posterior)-(superior|inferior)|[LR][AP][SI])(-time|T)?", re.IGNORECASE
)
_SPACES = ("3D-right-handed", "3D-left-handed", "scanner-xyz")  # untrusted text is not shown
# How each format parts key from value, and where its header ends.
_NRRD, _META_IMAGE = (b":", b"\n\n"), (b"=", b"ElementDataFile")
_FORMATS = {".nrrd": _NRRD, ".nhdr": _NRRD, ".mha": _META_IMAGE, ".mhd": _META_IMAGE}
_SPACING = {"spacings", "space directions", "elementspacing", "elementsize"}
_DIRECTION = {"space directions", "transformmatrix", "orientation", "rotation"}


def check_stated(path: Path) -> tuple[str, ...]:
    """Refuse a volume without spacing, and note one without direction.

    Readers take 1 mm and axes to the left, the back and the top. A wrong size makes every number
    wrong; wrong axes exchange left and right, which nobody sees in a skull. In NIfTI there may be
    two matrices that contradict each other.

    Args:
        path: The file; other formats state both.

    Returns:
        A note for the report, or nothing.

    Raises:
        InputError: If there is no spacing; the message has no place in front.
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
    """Return a note on directions that lead along axes of a space that is nobody's."""
    if _ANATOMICAL.fullmatch(space):
        return ()
    named = f"only {space}" if space in _SPACES else "nothing"
    return (
        f"The header does not say where right, front and top are ({named} is stated): axes were "
        "assumed to lead to the left, the back and the top. Check that left and right are correct.",
    )
