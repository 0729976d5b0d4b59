"""Label maps: several structures in one volume, of which one is the skull."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from famseg.messages import InputError, one_line
from famseg.volumes import volume_suffix

_HEADER_BYTES = 2**20
_SEGMENT = re.compile(r"^Segment(\d+)_(Name|LabelValue):=(.*)$", re.MULTILINE)
# TotalSegmentator writes names into a NIfTI header extension in the format of Caret.
_LABEL = re.compile(r'<Label\s+Key="(\d+)"[^>]*>\s*<!\[CDATA\[([^\]]{1,80})\]\]>')
_SKULL = re.compile(r"\b(skull|cranium|calvari(a|um)|crani?al bones?)\b", re.IGNORECASE)
_TOTAL_SEGMENTATOR = {"skull": 91}  # in its task "total", version 2
_LISTED = 12
_MOSTLY = 0.7  # share of equal neighbors; in an 8-bit CT it is a tenth


def segment_names(path: Path) -> dict[int, str]:
    """Return the names of labels stated in a file; empty if there are none.

    This reads the segments of 3D Slicer (``.seg.nrrd``) and the names that TotalSegmentator writes
    into the header of NIfTI files.

    Args:
        path: A file that passed `check_header`.
    """
    if volume_suffix(path) in (".nii", ".nii.gz"):
        return _names_in_nifti(path)
    if volume_suffix(path) not in (".nrrd", ".nhdr"):
        return {}
    with path.open("rb") as stream:
        header = stream.read(_HEADER_BYTES).replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    found: dict[str, dict[str, str]] = {}
    for number, key, value in _SEGMENT.findall(header.decode("utf-8", "replace")):
        found.setdefault(number, {})[key] = value.strip()
    return {
        int(segment["LabelValue"]): segment["Name"]
        for segment in found.values()
        if segment.get("LabelValue", "").isdecimal() and segment.get("Name")
    }


def _names_in_nifti(path: Path) -> dict[int, str]:
    try:
        extensions = nibabel.load(path).header.extensions
        texts = [str(extension.get_content()) for extension in extensions]
    except Exception:  # an unusual header has no names; reading the volume reports errors
        return {}
    return {int(key): name for text in texts for key, name in _LABEL.findall(text)}


def is_label_map(array: NDArray[Any]) -> bool:
    """Return whether whole numbers are labels, which nearly all neighboring voxels share.

    Args:
        array: Shape ``(X, Y, Z)``.
    """
    step = max(1, array.shape[0] // 64)
    rows = array[::step, :, :]
    one, other = rows[:, :-1], rows[:, 1:]
    both = (one != 0) & (other != 0)
    return bool(both.any() and np.mean((one == other)[both]) > _MOSTLY)


def chosen_labels(
    values: NDArray[Any], names: Mapping[int, str], label: str | None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return a label map reduced to the skull, and a note on what was taken.

    Args:
        values: A mask or label map; without labels starting at 0 it is returned unchanged.
        names: Names of labels as stated in the file.
        label: What the user chose: numbers or names, separated by commas; None chooses by name, if
            exactly one label is called skull.

    Raises:
        InputError: If there are several labels and no choice, or a chosen label does not exist.
    """
    present = _present(values)
    if present is None or (label is None and len(present) == 1):
        return values, ()
    if label is None:
        skulls = [number for number in present if _is_skull(names.get(number, ""))]
        if len(skulls) != 1:
            raise InputError(_question(present, names))
        name = one_line(names[skulls[0]], 40)
        note = f"Of {len(present)} labels the one named {name!r} ({skulls[0]}) was taken."
        return values == skulls[0], (note,)
    wanted: list[int] = []
    for part in (part.strip() for part in label.split(",")):
        if not part.isdecimal() and not names and len(present) == 1:
            return values, ()  # a mask of one structure leaves no choice
        wanted.append(_number(part, present, names))
    numbers = ", ".join(map(str, wanted))
    note = f"Of {len(present)} labels {numbers} {'was' if len(wanted) == 1 else 'were'} taken."
    return np.isin(values, wanted), (note,)


def _present(values: NDArray[Any]) -> list[int] | None:
    """Return the labels other than 0; None if it is not a label map."""
    low, high = float(values.min()), float(values.max())
    if low != 0 or high <= 0:
        return None
    if values.dtype.kind in ("b", "u") and high == 1:
        return [1]
    if values.dtype.kind == "f" and not all(bool((s == np.round(s)).all()) for s in values):
        return None
    found = np.unique(values)
    return [int(number) for number in found if number != 0]


def _is_skull(name: str) -> bool:
    return bool(_SKULL.search(name.replace("_", " ")))


def _number(wanted: str, present: Sequence[int], names: Mapping[int, str]) -> int:
    """Return the label with the given number or name."""
    if wanted.isdecimal():
        if int(wanted) in present:
            return int(wanted)
        raise InputError(f"no voxel has the label {wanted}: {_listed(present, names)}")
    plain = {n: name.casefold() for n, name in names.items() if n in present}
    exact = [n for n, name in plain.items() if name == wanted.casefold()]
    found = exact or [n for n, name in plain.items() if wanted.casefold() in name]
    if len(found) == 1:
        return found[0]
    known = _TOTAL_SEGMENTATOR.get(wanted.casefold())
    if known is not None and not names and known in present:
        return known
    what = "several labels" if found else "no label"
    raise InputError(
        f"{what} of the name {one_line(wanted, 40)!r}: {_listed(present, names)}; give "
        "the number with --label"
    )


def _question(present: Sequence[int], names: Mapping[int, str]) -> str:
    hint = ""
    if not names and _TOTAL_SEGMENTATOR["skull"] in present:
        hint = "; 91 is the skull in the numbering of TotalSegmentator"
    return (
        f"a label map in which the label of the skull is unknown: {_listed(present, names)}; give "
        f"it with --label N, or several as --label N,M{hint}"
    )


def _listed(present: Sequence[int], names: Mapping[int, str]) -> str:
    shown = [f"{n} ({one_line(names[n], 40)})" if n in names else str(n) for n in present[:_LISTED]]
    more = f" and {len(present) - _LISTED} more" if len(present) > _LISTED else ""
    what = "there are the labels" if len(present) > 1 else "there is the label"
    return f"{what} {', '.join(shown)}{more}"
