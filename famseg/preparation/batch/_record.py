"""Records of prepared subjects, by which later runs recognize unchanged subjects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from famseg.files import open_to_read, parse_json, write_json
from famseg.preparation._types import Quality, Role, Source, Split, View

RECORD_VERSION = 3
"""Part of every key; increased when the same settings yield a different skull or record."""


class Folder:
    """The paths in the folder of prepared skulls.

    Args:
        path: The folder.

    Attributes:
        manifest: The manifest: subjects, files, hashes and splits.
        report: The quality report as a page.
        table: The quality report as a table.
        state: Settings, versions and layout of the folder.
        salt: Key of the hashes that group the scans of one person.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / "manifest.csv"
        self.report = path / "report.html"
        self.table = path / "report.csv"
        self.state = path / "prepare.json"
        self.salt = path / ".salt"

    def record(self, subject: str) -> Path:
        """Return the path of a subject's record."""
        return self.path / "records" / f"{subject}.json"

    def thumbnail(self, subject: str) -> Path:
        """Return the path of a subject's image."""
        return self.path / "thumbnails" / f"{subject}.png"

    def slices(self, subject: str, view: View) -> tuple[Path, Path]:
        """Return the paths of a subject's slices: the scan, and the outline of its bone."""
        folder = self.path / "slices" / view
        return folder / f"{subject}.jpg", folder / f"{subject}.png"

    def skull(self, subject: str) -> Path:
        """Return the path of a complete skull."""
        return self.path / "skulls" / f"{subject}.nii.gz"

    def companion(self, subject: str, role: Role, defect: str) -> Path:
        """Return the path of a defective skull or an implant."""
        return self.path / role / defect / f"{subject}.nii.gz"


@dataclass(frozen=True)
class Record:
    """The result for one subject.

    Args:
        subject: Its name.
        origin: Where it was found, below the folder that was searched.
        status: ``done``, ``failed`` (the preparation failed), ``refused`` (it could not be tried)
            or ``left out`` (not meant to be a skull, such as a localizer).
        reason: Why it is not done, in one line.
        split: The split that the layout of its collection defines.
        quality: Measurements and findings of the skull; None unless done.
        notes: Corrections made while it was read.
        files: SHA-256 of each written file, by its path in the folder.
        key: Hash of the settings of the preparation.
        stamp: Hash of the sizes and modification times of the source files.
        content: Hash of the content of the source files.
        signature: The coarse shape used to find duplicates, as text.
        to_source: Maps mm of the skull's world to mm of the scan's, row by row; it maps an implant
            back to the patient.
    """

    subject: str
    origin: str
    status: Literal["done", "failed", "refused", "left out"]
    reason: str = ""
    split: Split | None = None
    quality: Quality | None = None
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    stamp: str = ""
    content: str = ""
    signature: str = ""
    to_source: tuple[float, ...] = ()


def settings_key(settings: Mapping[str, object]) -> str:
    """Return the hash of settings, independent of their order.

    Example:
        >>> settings_key({"a": 1, "b": 2}) == settings_key({"b": 2, "a": 1})
        True
    """
    content = {"record": RECORD_VERSION, "settings": settings}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def files_stamp(source: Source) -> str:
    """Return a hash of the sizes and times of the source files: cheap, but changed by copying."""
    digest = hashlib.sha256()
    for file in source.files:
        state = file.stat()
        digest.update(f"{state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def files_content(source: Source) -> str:
    """Return a hash of the content of the source files."""
    digest = hashlib.sha256()
    for file in source.files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def write_record(record: Record, folder: Folder) -> None:
    """Write the record of a finished subject atomically."""
    path = folder.record(record.subject)
    path.parent.mkdir(exist_ok=True)
    write_json(path, asdict(record))


def read_record(subject: str, folder: Folder) -> Record | None:
    """Return the record of a subject; None if there is none that this version can read."""
    try:
        content = parse_json(folder.record(subject).read_bytes())
        quality = content["quality"]
        if set(content) != _names(Record) or (quality and set(quality) != _names(Quality)):
            return None
        return TypeAdapter(Record).validate_python(content)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # written by another version: the subject is prepared again


def recorded_subjects(folder: Folder) -> list[str]:
    """Return the names of the subjects that have a record, sorted."""
    return sorted(path.stem for path in (folder.path / "records").glob("*.json"))


def is_written(record: Record, folder: Folder) -> bool:
    """Return whether the files of a record exist and are unchanged."""
    for name, sha256 in record.files.items():
        try:
            with open_to_read(folder.path / name) as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                    return False
        except OSError:
            return False
    return bool(record.files)


def discard(record: Record, folder: Folder) -> None:
    """Remove a subject's record, then the files listed in it."""
    folder.record(record.subject).unlink(missing_ok=True)
    for name in record.files:
        path = folder.path / name
        if path.resolve().is_relative_to(folder.path.resolve()):
            path.unlink(missing_ok=True)


def _names(kind: type[Record] | type[Quality]) -> set[str]:
    return {each.name for each in fields(kind)}
