"""Finding the subjects in a folder, a file or an archive."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar, get_args

from famseg.messages import InputError
from famseg.preparation._types import Found, Refused, Source
from famseg.preparation.dicom import find_series
from famseg.preparation.sources import (
    MESH_SUFFIXES,
    Challenge,
    Item,
    PersonalWords,
    Tree,
    find_cases,
    find_project,
    fit_name,
    pieces_of,
    read_any,
    recognize,
    walk,
)
from famseg.volumes import VOLUME_SUFFIXES

Layout = Literal["auto", "folder", "dicom", "skullfix", "skullbreak", "mug500", "scidata2021"]
"""Layouts of collections; ``folder`` treats each volume, mesh and project as a subject."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_Named = TypeVar("_Named", Source, Refused)


def find_sources(root: Path, *, layout: Layout = "auto", every_series: bool = False) -> Found:
    """Find the subjects below a folder, in a file or in a ZIP archive.

    Only names and headers are read here; the sources read the voxels later.

    Args:
        root: A folder with any content (ZIP archives in it are searched, too), one file, or one
            archive.
        layout: ``auto`` recognizes the public collections and otherwise uses every file that it can
            read.
        every_series: Use every DICOM series, not only the best of those that show the same head in
            one study.

    Returns:
        The usable subjects, the unusable ones with the reason, and the layout.

    Raises:
        InputError: If the file or folder does not exist, or contains nothing that fits the layout.
    """
    root = Path(root)
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    tree = walk(root)
    challenge = recognize(tree) if layout == "auto" else _as_challenge(layout)
    if challenge is not None:
        sources, refused = _collection(tree, challenge)
        name: str = challenge
        refused += tree.refused
    else:
        sources, refused = [], []
        if layout != "dicom":
            sources, refused = _files(tree)
        if layout != "folder":
            series, more, words = find_series(
                tree.files["dicom"], tree.name, every_series=every_series
            )
            name = "folder" if sources or refused else "dicom"
            more = [_hidden(each, words) for each in (*more, *tree.refused)]
            sources, refused = [*sources, *series], [*refused, *more]
        else:
            name, refused = "folder", [*refused, *tree.refused]
    if not sources and not refused:
        raise InputError(_nothing(root, layout))
    unique_sources = unique_names(sources, set())
    taken = {source.subject for source in unique_sources}
    return Found(name, tuple(unique_sources), tuple(unique_names(refused, taken)))


def _as_challenge(layout: Layout) -> Challenge | None:
    for challenge in get_args(Challenge):
        if layout == challenge:
            return challenge  # type: ignore[no-any-return]  # get_args loses the literal types
    return None


def _collection(tree: Tree, layout: Challenge) -> tuple[list[Source], list[Refused]]:
    """Return the cases of a collection; files that are not part of it are refused."""
    pieces = pieces_of(tree, layout)
    sources, refused = find_cases(pieces, layout)
    known = {piece.item for piece in pieces}
    if not pieces:
        return sources, refused
    others = [*tree.files["volume"], *tree.files["mesh"], *tree.files["project"]]
    for item in others:
        if item not in known:
            reason = f"not a part of the layout {layout}: prepare it separately"
            refused.append(Refused(item.subject, item.place.as_posix(), reason))
    return sources, refused


def _files(tree: Tree) -> tuple[list[Source], list[Refused]]:
    """Return each file as a subject; a file alone in its folder is named after the folder."""
    volumes = {(i.place.parent, i.subject) for i in tree.files["volume"]}
    twins = [i for i in tree.files["mesh"] if (i.place.parent, i.subject) in volumes]
    refused = [
        Refused(
            item.subject,
            item.place.as_posix(),
            "a mesh beside a volume of the same name: the volume is used",
            left_out=True,
        )
        for item in twins
    ]
    items = [*tree.files["volume"], *(i for i in tree.files["mesh"] if i not in twins)]
    alone = Counter(item.place.parent for item in (*items, *tree.files["project"]))
    sources: list[Source] = []
    for item in items:
        folder = item.place.parent
        single = alone[folder] == 1 and folder.parts and not folder.name.endswith(".zip")
        subject = fit_name(folder.as_posix()) if single else item.subject
        origin = item.place.as_posix()
        files = (item.file, *_beside(item))
        sources.append(Source(subject, origin, files, partial(read_any, item, origin)))
    for item in tree.files["project"]:
        found = find_project(item)
        sources += [found] if isinstance(found, Source) else []
        refused += [found] if isinstance(found, Refused) else []
    return sorted(sources, key=lambda source: source.origin), refused


def _beside(item: Item) -> list[Path]:
    """Return the voxel files that belong to a header: the same name with another suffix."""
    if item.member is not None or not item.name.lower().endswith((".mhd", ".nhdr", ".hdr")):
        return []
    endings = (".raw", ".zraw", ".raw.gz", ".raw.bz2", ".img", ".IMG", ".img.gz", ".dat")
    found = (item.file.with_name(item.stem + ending) for ending in endings)
    return [file for file in found if file.is_file()]


def unique_names(found: list[_Named], taken: set[str]) -> list[_Named]:
    """Return the sources or refusals with a number appended to repeated names."""
    names = set(taken)
    unique: list[_Named] = []
    for each in found:
        name, number = each.subject, 2
        while name.casefold() in {n.casefold() for n in names}:
            name, number = f"{each.subject}_{number}", number + 1
        names.add(name)
        unique.append(replace(each, subject=name))
    return unique


def _hidden(refused: Refused, words: PersonalWords) -> Refused:
    """Return a refusal without words from headers: its folder may be named after a patient."""
    if not words.in_text(f"{refused.subject} {refused.origin}"):
        return refused
    origin = words.masked(PurePosixPath(refused.origin))
    return replace(refused, subject="unnamed", origin=origin)


def _nothing(root: Path, layout: Layout) -> str:
    if layout in ("auto", "folder"):
        endings = ", ".join((*VOLUME_SUFFIXES, *MESH_SUFFIXES, ".inv3", ".zip"))
        dicom = "" if layout == "folder" else "DICOM files or "
        return f"{root}: nothing to prepare: looked for {dicom}files ending in {endings}"
    if layout == "dicom":
        return f"{root}: there are no DICOM files in it or in its sub-folders"
    return (
        f"{root}: it contains nothing with the layout {layout}: leave out --layout, or see the docs"
    )
