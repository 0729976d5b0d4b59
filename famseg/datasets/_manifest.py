"""Manifests: the subjects of a data set with their files and splits."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, cast, get_args

from famseg.files import csv_text, write_atomically
from famseg.messages import InputError
from famseg.volumes import data_file

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
EXCLUDED = "excluded"
"""Value of the column split for subjects that are not used."""
MANIFEST_NAME = "manifest.csv"
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
_COLUMNS = ("subject", "file", "sha256", "split")
_OPTIONAL = ("group", "flags")  # written if any subject has a value


@dataclass(frozen=True)
class SkullSubject:
    """One subject of a data set.

    Args:
        id: Name, unique in the data set.
        file: The volume, or None for a synthetic subject.
        sha256: Hash of the file's bytes, or of what the subject was made from.
        split: ``train``, ``validation`` or ``test``; None if it is not decided.
        group: Subjects of one group are one person, and a split never divides them. If it is empty,
            the subject is a group by itself.
        flags: What ``famseg prepare`` found in it, such as ``existing_defect``.
        excluded: Whether it is excluded by hand: it has no split and is not used.
    """

    id: str
    file: Path | None
    sha256: str
    split: Split | None = None
    group: str = ""
    flags: tuple[str, ...] = ()
    excluded: bool = False


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a volume in hexadecimal, as ``sha256sum`` prints it.

    For a header whose voxels are in another file (.mhd, .nhdr) it covers both files, the header
    first.
    """
    digest = hashlib.sha256()
    for part in (path, *_data_file(path)):
        with part.open("rb") as stream:
            while chunk := stream.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def write_manifest(subjects: Iterable[SkullSubject], path: Path) -> None:
    """Write subjects atomically as CSV with the columns subject, file, sha256, split.

    The columns group and flags (separated by spaces) follow if a subject has a value.

    Args:
        subjects: What to write; files are written relative to the manifest where they lie below it.
        path: The CSV file; its folder must exist.
    """
    folder = path.resolve().parent
    rows = [
        {
            "subject": s.id,
            "file": _relative(s.file, folder),
            "sha256": s.sha256,
            "split": EXCLUDED if s.excluded else s.split or "",
            "group": s.group,
            "flags": " ".join(s.flags),
        }
        for s in subjects
    ]
    used = [name for name in _OPTIONAL if any(row[name] for row in rows)]
    write_atomically(path, csv_text([*_COLUMNS, *used], rows).encode())


def read_manifest(path: Path, *, check_files: bool = True) -> list[SkullSubject]:
    """Read a manifest, all its errors in one error.

    Args:
        path: CSV with the columns subject, file, sha256, split and, if wanted, group and flags (in
            any order); an empty file or sha256 or split or group or flags is allowed. The split
            ``excluded`` leaves a subject out.
        check_files: Also compare each file's hash with the one stated.

    Returns:
        The subjects in the order of the file; hashes filled in where they were empty.

    Raises:
        InputError: One line for each error, with the line's number.
    """
    rows, faults = _read_rows(path)
    subjects: list[SkullSubject] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        where = f"{path}:{line}"
        subject = row["subject"].strip()
        if not subject:
            faults.append(f"{where}: subject is empty: name it")
        elif subject in seen:
            faults.append(f"{where}: subject {subject} is already in line {seen[subject]}")
        seen.setdefault(subject, line)
        split = row["split"].strip()
        excluded = split == EXCLUDED
        if split and not excluded and split not in SPLITS:
            faults.append(f"{where}: split {split!r} is none of {', '.join((*SPLITS, EXCLUDED))}")
        file, sha256, more = _check_file(where, path.parent, row, check_files)
        faults += more
        group = row.get("group", "").strip()
        flags = tuple(row.get("flags", "").split())
        given = cast("Split | None", split or None)
        subjects.append(
            SkullSubject(subject, file, sha256, None if excluded else given, group, flags, excluded)
        )
    if not rows and not faults:
        faults.append(f"{path}: no subjects: it has only a header line")
    if faults:
        raise InputError(*faults)
    return subjects


def scan_folder(root: Path, pattern: str = "*") -> list[SkullSubject]:
    """Find the subjects in a folder.

    ``manifest.csv`` takes precedence if it exists. Otherwise each volume directly in ``root`` is a
    subject named by its file, and each sub-folder with volumes is a subject named by the folder.
    Hidden files and folders are left out.

    Args:
        root: The folder.
        pattern: Glob that a file's name must match, e.g. ``mask*``: for sub-folders that contain
            several volumes.

    Returns:
        Subjects in the order of their names, with hashes, splits only from a manifest.

    Raises:
        InputError: If there are no volumes, or the file of a subject is ambiguous; all errors at
            once.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "there is no such folder"
        raise InputError(f"{root}: {what}: set data.root to the folder with the volumes")
    if (root / MANIFEST_NAME).is_file():
        return read_manifest(root / MANIFEST_NAME)
    found: list[tuple[str, Path]] = []
    faults: list[str] = []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            files = [f for f in sorted(entry.iterdir()) if _wanted(f, pattern)]
            if len(files) > 1:
                names = ", ".join(f.name for f in files[:4])
                faults.append(
                    f"{entry}: {len(files)} volumes ({names}): give one per subject, or choose "
                    "with data.pattern, e.g. data.pattern='mask*'"
                )
            found += [(entry.name, f) for f in files[:1]]
        elif _wanted(entry, pattern):
            found.append((_stem(entry), entry))
    for subject, count in Counter(name for name, _ in found).items():
        if count > 1:
            faults.append(f"{root}: {count} volumes are named {subject}: rename all but one")
    if not found and not faults:
        faults.append(_nothing(root, pattern))
    if faults:
        raise InputError(*faults)
    return [SkullSubject(name, file, file_sha256(file)) for name, file in found]


def _read_rows(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    faults: list[str] = []
    try:
        header = next(reader, [])
        if sorted(set(header) - set(_OPTIONAL)) != sorted(_COLUMNS) or len(set(header)) < len(
            header
        ):
            optional = f" (optionally also {','.join(_OPTIONAL)})"
            raise InputError(
                f"{path}:1: the header must be {','.join(_COLUMNS)}{optional}, got "
                f"{','.join(header)!r}"
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                faults.append(
                    f"{path}:{reader.line_num}: {len(cells)} cells, the header has {len(header)}: "
                    "quote cells that contain a comma"
                )
                continue
            rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        faults.append(f"{path}:{reader.line_num}: not CSV ({error})")
    return rows, faults


def _check_file(
    where: str, folder: Path, row: dict[str, str], check: bool
) -> tuple[Path | None, str, list[str]]:
    sha256 = row["sha256"].strip().lower()
    if not row["file"].strip():
        return None, sha256, [f"{where}: file is empty: name the volume"]
    file = folder / row["file"]
    if not check:
        return file, sha256, []
    try:
        if not file.is_file():
            return file, sha256, [f"{where}: {file}: there is no such file"]
    except OSError as error:  # too long a name, a loop of links
        return file, sha256, [f"{where}: {file}: cannot be read ({error.strerror})"]
    actual = file_sha256(file)
    if sha256 and sha256 != actual:
        fault = (
            f"{where}: {file}: its SHA-256 is {actual[:12]}..., but {sha256[:12]}... in the "
            "manifest: the file has changed; restore it, or empty the cell to accept it"
        )
        return file, sha256, [fault]
    return file, actual, []


def _data_file(header: Path) -> list[Path]:
    """Return the file that a detached header references, if it exists."""
    file = data_file(header)
    return [file] if file is not None and file.is_file() else []


def _wanted(path: Path, pattern: str) -> bool:
    name = path.name
    volume = any(name.lower().endswith(s) and len(name) > len(s) for s in SUFFIXES)
    return volume and not name.startswith(".") and fnmatchcase(name, pattern) and path.is_file()


def _stem(path: Path) -> str:
    name = path.name
    ending = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len)
    return name[: -len(ending)]


def _relative(file: Path | None, folder: Path) -> str:
    if file is None:
        return ""
    whole = file.resolve()
    return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else str(whole)


def _nothing(root: Path, pattern: str) -> str:
    matching = "" if pattern == "*" else f" that match {pattern!r}"
    return (
        f"{root}: no volumes{matching}: looked for {', '.join(SUFFIXES)} there and in its "
        "sub-folders"
    )
