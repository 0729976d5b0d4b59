"""Search for the skulls to complete: files, folders and DICOM series on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from famseg.messages import InputError
from famseg.preparation import Layout, Refused, Source, find_sources, unique_names
from famseg.preparation.sources import Opener
from famseg.volumes import VOLUME_SUFFIXES, volume_suffix

Kind = Literal["volume", "mesh", "dicom"]

# Formats with a detached header are replaced by the format with both in one file.
_ONE_FILE = {".nhdr": ".nrrd", ".mhd": ".mha"}
_DEFAULT_ENDING = ".nii.gz"
_TRACES = ("case.json", "reconstruct.json")


@dataclass(frozen=True)
class Input:
    """A skull to complete.

    Args:
        source: Its name, files and reader.
        kind: The kind of its files.
    """

    source: Source
    kind: Kind

    @property
    def name(self) -> str:
        """Its name, valid as a folder name, without personal data."""
        return self.source.subject

    @property
    def ending(self) -> str:
        """Suffix of the volumes written for it: its own, else that of NIfTI."""
        suffix = volume_suffix(Path(self.source.origin)) if self.kind == "volume" else None
        return _ONE_FILE.get(suffix or "", suffix or _DEFAULT_ENDING)

    def space(self) -> Literal["RAS", "LPS"]:
        """Return the axes of coordinates in its mesh files: those of the input, if it is a mesh.

        Meshes that do not state them are read as LPS, which DICOM also uses.
        """
        if self.kind != "mesh":
            return "LPS"
        item = self.source.read.args[0]  # type: ignore[attr-defined]  # a functools.partial of read_any
        with Opener() as opener:
            start = opener.start(item, 1024).upper()
        return "RAS" if b"SPACE=RAS" in start else "LPS"


@dataclass(frozen=True)
class Inputs:
    """What a command line names.

    Args:
        found: Skulls that can be tried, each with a name of its own.
        refused: What cannot, with the reason.
    """

    found: tuple[Input, ...]
    refused: tuple[Refused, ...]


def find_inputs(paths: Sequence[Path]) -> Inputs:
    """Find the skulls that paths name.

    A file is one skull. A folder is all volumes, meshes and DICOM series in it and below, and ZIP
    archives are looked into (`famseg.preparation.find_sources`): only names and headers are read.
    Folders that an earlier reconstruction has written are left out.

    Args:
        paths: Files and folders.

    Returns:
        The skulls, named by their files or folders as ``famseg prepare`` names them, in the order
        of the paths; a number is appended to duplicate names.

    Raises:
        InputError: One line for each path that is missing or contains no skull.
    """
    sources: list[tuple[Source, Kind]] = []
    refused: list[Refused] = []
    faults: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            here, not_here = _look_into(path)
        except InputError as error:
            faults += error.faults
            continue
        sources += here
        refused += not_here
    if faults:
        raise InputError(*faults)
    named = unique_names([source for source, _ in sources], set())
    found = tuple(Input(n, kind) for n, (_, kind) in zip(named, sources, strict=True))
    return Inputs(found, tuple(dict.fromkeys(refused)))


def check_out(paths: Sequence[Path], out: Path) -> None:
    """Refuse a folder of results that overlaps with a folder of inputs or contains other files.

    Args:
        paths: Files and folders of inputs.
        out: The folder of results.

    Raises:
        InputError: If inputs could be mistaken for results, or vice versa.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file: give a folder")
    target = out.resolve()
    for path in paths:
        source = path.resolve()
        if path.is_dir() and (target.is_relative_to(source) or source.is_relative_to(target)):
            raise InputError(
                f"--out {out}: overlaps with the input {path}: choose a folder outside it"
            )
    filled = out.is_dir() and any(not p.name.startswith(".") for p in out.iterdir())
    if filled and not (out / "reconstruct.json").is_file():
        raise InputError(
            f"--out {out}: is not empty and was not written by famseg reconstruct: choose a new "
            "folder"
        )


def _look_into(path: Path) -> tuple[list[tuple[Source, Kind]], list[Refused]]:
    """Return the sources in a path, without recognizing collections: any skull is accepted."""
    found: list[tuple[Source, Kind]] = []
    refused: list[Refused] = []
    nothing: list[str] = []
    layouts: tuple[Layout, ...] = ("folder", "dicom")
    for layout in layouts:
        try:
            here = find_sources(path, layout=layout)
        except InputError as error:
            nothing += error.faults
            continue
        found += [
            (source, _kind_of(source) if layout == "folder" else "dicom")
            for source in here.sources
            if not _is_result(path, source)
        ]
        refused += here.refused
    if not found and not refused:
        missing = [fault for fault in nothing if "nothing to prepare" not in fault]
        endings = ", ".join((*VOLUME_SUFFIXES, ".stl", ".ply"))
        what = "there is no such file or folder"
        if path.exists():
            what = f"no skull to complete: looked for DICOM series and files ending in {endings}"
            missing = [f for f in missing if "no DICOM files" not in f and "no such file" not in f]
        raise InputError(*(missing[:1] if path.exists() and missing else [f"{path}: {what}"]))
    return found, refused


def _kind_of(source: Source) -> Kind:
    return "mesh" if source.origin.lower().endswith((".stl", ".ply")) else "volume"


def _is_result(root: Path, source: Source) -> bool:
    """Return whether a file is in a folder that a reconstruction has written."""
    if not root.is_dir():
        return False
    folder = source.files[0].parent
    return any((place / name).is_file() for place in (folder, folder.parent) for name in _TRACES)
