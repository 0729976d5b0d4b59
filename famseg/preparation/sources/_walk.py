"""Listing and classification of the files in a folder or an archive."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from famseg.files import ZIP_DAMAGED, safe_members
from famseg.messages import NO_TEXT, InputError, is_text, visible
from famseg.preparation._types import Refused
from famseg.preparation.sources._items import Item, Opener
from famseg.volumes import volume_suffix

MESH_SUFFIXES = (".stl", ".ply")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_OTHER_MESHES = (".obj", ".vtp", ".vtk", ".off", ".3mf", ".glb")
_OTHER_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_ANALYZE = (".hdr", ".img")
_ALSO_DICOM = (".img", ".raw")  # names of slices from some scanners
# Suffixes that are never images; files with any other suffix are opened to check for DICOM.
_IGNORED = (
    *(".raw", ".zraw", ".raw.gz", ".gz", ".bz2", ".xz"),  # among them detached voxel data
    *(".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".md", ".html", ".htm", ".pdf"),
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".mp4", ".npy", ".npz"),
    *(".doc", ".docx", ".xls", ".xlsx", ".py", ".sh", ".m", ".ini", ".inf", ".exe", ".dll", ".log"),
)

# An unpacked archive may contain links to any file that the user can read.
_LINK = "a link that leads out of the folder: copy the file, or prepare a folder that contains both"

What = Literal["volume", "mesh", "project", "dicom"]


@dataclass
class Tree:
    """The files found below a folder.

    Args:
        name: Name of the folder, or of the file itself, without its suffix.
        files: All readable files by type.
        refused: Files that seem to be intended as input but cannot be read.
    """

    name: str
    files: dict[What, list[Item]] = field(
        default_factory=lambda: {"volume": [], "mesh": [], "project": [], "dicom": []}
    )
    refused: list[Refused] = field(default_factory=list)


def walk(root: Path) -> Tree:
    """List all files below a folder, except hidden ones, and in its ZIP archives.

    Args:
        root: A folder, a file or an archive.

    Returns:
        The files, sorted by name.

    Raises:
        InputError: If the file or folder does not exist or cannot be read.
    """
    with Opener() as opener:
        return _walk(root, opener)


def _walk(root: Path, opener: Opener) -> Tree:
    if root.is_file():
        item = Item(PurePosixPath(visible(root.name)), root)
        tree = Tree(item.stem)
        _sort(item, tree, opener, alone=True)
        return tree
    if not root.is_dir():
        raise InputError(f"{root}: there is no such file or folder")
    if not os.access(root, os.R_OK | os.X_OK):
        raise InputError(f"{root}: no permission to read it")
    tree = Tree(visible(root.resolve().name))
    inside = root.resolve()
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        for name in sorted(names) + [f for f in folders if Path(folder, f).is_symlink()]:
            file = Path(folder, name)
            item = Item(PurePosixPath(visible(file.relative_to(root).as_posix())), file)
            if not name.startswith(".") and _leads_out(file, inside):
                # A volume may end in .gz, as do files that are left out without a word.
                if volume_suffix(file) is not None or not name.lower().endswith(_IGNORED):
                    _refuse(item, tree, _LINK)
            elif not name.startswith(".") and file.is_file():
                _sort(item, tree, opener)
    return tree


def _leads_out(file: Path, root: Path) -> bool:
    """Return whether a file is a link that points outside the searched folder."""
    return file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(root)


def _sort(item: Item, tree: Tree, opener: Opener, *, alone: bool = False) -> None:
    """Classify a file; ``alone`` means that it is the only input."""
    name = item.name.lower()
    if not is_text(str(item.file)):
        if alone or not name.endswith(_IGNORED):
            _refuse(item, tree, NO_TEXT)
    elif name.endswith(".zip"):
        if item.member is None:
            _look_into(item, tree, opener, alone=alone)
        else:
            _refuse(item, tree, "an archive inside an archive: unpack the outer one")
    elif (what := _what(item, name, opener)) is not None:
        tree.files[what].append(item)
    elif name.endswith(_OTHER_MESHES):
        _refuse(item, tree, "this kind of mesh is not supported: save it as STL or PLY")
    elif name.endswith(_OTHER_ARCHIVES):
        _refuse(item, tree, "this kind of archive is not supported: unpack it, or pack it as ZIP")
    elif name.endswith(".img") and _has_header(item):
        return  # its header is read or refused instead
    elif name.endswith(_ANALYZE):
        _refuse(item, tree, "Analyze files do not tell left from right: convert to NIfTI or NRRD")
    elif name.endswith(_DICOM_SUFFIXES) or alone:
        _refuse(item, tree, "neither DICOM nor another supported kind of file")


def _what(item: Item, name: str, opener: Opener) -> What | None:
    if name.endswith(".hdr"):  # NIfTI-1 or NIfTI-2; Analyze files have no magic string
        start = opener.start(item, 348)
        return "volume" if start[344:348] == b"ni1\0" or start[4:7] == b"ni2" else None
    if volume_suffix(Path(name)) is not None:
        return "volume"
    if name.endswith(MESH_SUFFIXES):
        return "mesh"
    if name.endswith(".inv3"):
        return "project"
    known = tuple(
        ending
        for ending in (*_IGNORED, *_OTHER_MESHES, *_OTHER_ARCHIVES, *_ANALYZE)
        if ending not in _ALSO_DICOM
    )
    if name.endswith(known) or name in ("dicomdir", "thumbs.db"):
        return None
    start = opener.start(item, 132)
    # Old files have no preamble and begin with group 0002 or 0008 in little endian.
    bare = name.endswith(_DICOM_SUFFIXES) and start[:2] in (b"\x02\x00", b"\x08\x00")
    return "dicom" if start[128:132] == b"DICM" or bare else None


def _has_header(item: Item) -> bool:
    return item.member is not None or item.file.with_suffix(".hdr").is_file()


def _look_into(item: Item, tree: Tree, opener: Opener, *, alone: bool) -> None:
    try:
        with zipfile.ZipFile(item.file) as archive:
            members = safe_members(archive)
    except (OSError, *ZIP_DAMAGED):
        _refuse(item, tree, "the archive is damaged or cut short: copy it again")
        return
    except InputError as error:
        _refuse(item, tree, str(error))
        return
    top = PurePosixPath() if alone else item.place
    for info in sorted(members, key=lambda m: m.filename):
        parts = PurePosixPath(visible(info.filename.replace("\\", "/"))).parts
        if not any(part.startswith((".", "__MACOSX")) for part in parts):
            _sort(Item(top.joinpath(*parts), item.file, info.filename), tree, opener)


def _refuse(item: Item, tree: Tree, reason: str) -> None:
    tree.refused.append(Refused(item.subject, item.place.as_posix(), reason))
