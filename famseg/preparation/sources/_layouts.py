"""The layouts of public collections of skulls, recognized by file names.

- SkullFix and SkullBreak (doi 10.1016/j.dib.2021.106902): ``complete_skull/NNN.nrrd``, and
  next to it ``defective_skull`` and ``implant``, which in SkullBreak have a subfolder for each of
  the five classes of defects. SkullFix calls the parent folder ``training_set`` and also has
  ``test_set_for_participants/NNN.nrrd`` (also ``test_set_give_participants``) and
  ``additional_test_set_for_participants/NNN.nrrd``: defective skulls only.
- MUG500+ (doi 10.1016/j.dib.2021.107524): archives such as ``A0491-A0495.zip`` with
  ``A0491/A0491.nrrd``, ``A0491.stl`` and ``A0491_clear.stl`` (cleaned), and
  ``B0001/B0001.nrrd`` with ``B0001_implant.stl`` for craniotomies.
- SciData 2021 (doi 10.1038/s41597-021-00806-0): ``CASE.nrrd``, ``CASE_DefectsNN.nrrd`` and
  ``CASE_ImplantsNN.nrrd``, as the scripts of its authors name them, or the subfolders ``Defects``
  and ``Implants`` of a case.

Folders above these may have any name; one such as ``training_set`` or ``test`` defines the split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from famseg.preparation._types import Split
from famseg.preparation.sources._items import Item
from famseg.preparation.sources._walk import Tree

Challenge = Literal["skullfix", "skullbreak", "mug500", "scidata2021"]

DEFECT_CLASSES = ("bilateral", "frontoorbital", "parietotemporal", "random_1", "random_2")
"""Folders of SkullBreak: its names, whatever classes famseg itself can cut."""

_FOLDERS = {"complete_skull": "complete", "defective_skull": "defective", "implant": "implant"}
_TEST_SET = re.compile(r"(additional_)?test_set_\w*participants")
_SET = re.compile(r"(?:\w*skull\w*_)?(train|test|eval)(?:ing|uation)?[ _-]?(?:set\w*|\d*)")
_MUG500 = re.compile(r"([AB]\d{4})(_clear|_implant)?", re.IGNORECASE)
_SCIDATA = re.compile(r"(.+?)[ _-]*(defects?|defective|implants?)[ _-]*(\d*)", re.IGNORECASE)
_SCIDATA_FOLDER = re.compile(r"(defect|implant)\w*", re.IGNORECASE)
_WHOLE = re.compile(r"[ _-]*(complete|healthy|original)?[ _-]*(skull)?", re.IGNORECASE)


@dataclass(frozen=True)
class Piece:
    """The role of a file in a case.

    Args:
        case: Name of the case in its collection.
        role: Complete skull, defective skull or implant.
        defect: Class or number of the defect; empty for complete skulls.
        item: The file.
        split: Split defined by a parent folder.
        rank: If several files have the same content, the one with the lowest rank is read.
    """

    case: str
    role: Literal["complete", "defective", "implant"]
    defect: str
    item: Item
    split: Split | None = None
    rank: int = 0


def recognize(tree: Tree) -> Challenge | None:
    """Return the layout that at least half of the volumes and meshes match, if any."""
    count = len(tree.files["volume"]) + len(tree.files["mesh"])
    for layout in _READERS:
        pieces = pieces_of(tree, layout)
        if 2 * len(pieces) >= count > 0 and _is_typical(pieces, layout):
            return layout
    return None


def pieces_of(tree: Tree, layout: Challenge) -> list[Piece]:
    """Return the files that belong to a layout."""
    items = [*tree.files["volume"], *tree.files["mesh"]]
    found = (_READERS[layout](item, _folders(tree, item), item.stem) for item in items)
    return [piece for piece in found if piece is not None]


def _is_typical(pieces: list[Piece], layout: Challenge) -> bool:
    """Return whether the pieces have a feature that is unique to this layout."""
    roles = {piece.role for piece in pieces}
    if layout == "skullbreak":
        return any(piece.defect in DEFECT_CLASSES for piece in pieces)
    if layout == "scidata2021":
        return {"defective", "implant"} <= roles
    return bool(pieces)


def _skullbreak(item: Item, folders: list[str], stem: str) -> Piece | None:
    at = [i for i, folder in enumerate(folders) if folder.rstrip("s") in _FOLDERS]
    if not at or not stem.isalnum():
        return None
    kind, below = _FOLDERS[folders[at[-1]].rstrip("s")], folders[at[-1] + 1 :]
    defect = below[-1] if below else ""
    if (kind == "complete") != (defect not in DEFECT_CLASSES):
        return None
    above, split = _set(folders[: at[-1]])
    case = "_".join(part for part in (above, stem) if part)
    return _piece(case, kind, "" if kind == "complete" else defect, item, split)


def _skullfix(item: Item, folders: list[str], stem: str) -> Piece | None:
    if folders and stem.isalnum():
        above, split = _set(folders)
        last = folders[-1].rstrip("s")
        case = "_".join(part for part in (above, stem) if part)
        if last in _FOLDERS:
            return _piece(case, _FOLDERS[last], "", item, split)
        if _TEST_SET.fullmatch(folders[-1]):
            return _piece(case, "defective", "", item, "test")
    return None


def _mug500(item: Item, folders: list[str], stem: str) -> Piece | None:
    match = _MUG500.fullmatch(stem)
    if match is None:
        return None
    case, what = match[1].upper(), (match[2] or "").lower()
    rank = 0 if item.is_volume else 1 if what == "_clear" else 2
    if case[0] == "A":
        return _piece(case, "complete", "", item, None, rank) if what != "_implant" else None
    kind = "implant" if what == "_implant" else "defective"
    return _piece(case, kind, "craniotomy", item, None, rank)


def _scidata2021(item: Item, folders: list[str], stem: str) -> Piece | None:
    rank = 0 if item.is_volume else 1
    match = _SCIDATA.fullmatch(stem)
    if match is not None and match[3]:
        kind = "implant" if match[2][0] in "iI" else "defective"
        return _piece(match[1].lower(), kind, f"defect_{match[3]}", item, None, rank)
    inside = [i for i, folder in enumerate(folders) if _SCIDATA_FOLDER.fullmatch(folder)]
    digits = re.search(r"(\d+)$", stem)
    if inside and inside[-1] > 0 and digits is not None:
        kind = "implant" if folders[inside[-1]][0] == "i" else "defective"
        case = folders[inside[-1] - 1]
        return _piece(case, kind, f"defect_{digits[1]}", item, None, rank)
    whole = _WHOLE.fullmatch(stem) is not None  # "skull.nrrd" in the folder of its case
    case = folders[-1] if whole and folders else re.sub(_WHOLE.pattern + "$", "", stem, flags=re.I)
    return _piece(case.lower(), "complete", "", item, None, rank)


_READERS: Mapping[Challenge, Callable[[Item, list[str], str], Piece | None]] = {
    "skullbreak": _skullbreak,
    "skullfix": _skullfix,
    "mug500": _mug500,
    "scidata2021": _scidata2021,
}


def _piece(
    case: str, role: str, defect: str, item: Item, split: Split | None, rank: int = 0
) -> Piece:
    for known in ("complete", "defective", "implant"):
        if role == known:
            return Piece(case, known, defect, item, split, rank)
    raise ValueError(f"role {role!r}")


def _folders(tree: Tree, item: Item) -> list[str]:
    """Return the parent folders of a file in lower case, beginning with the searched folder."""
    return [part.lower() for part in (tree.name, *item.place.parts[:-1])]


def _set(folders: list[str]) -> tuple[str, Split | None]:
    """Return the part of a collection and the split that folder names define."""
    for folder in reversed(folders):
        if _TEST_SET.fullmatch(folder):
            return ("additional" if folder.startswith("additional") else "test"), "test"
        match = _SET.fullmatch(folder)
        if match is not None:
            return ("training", "train") if match[1] == "train" else ("test", "test")
    return "", None
