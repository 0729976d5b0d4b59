"""Fixed sets of defects as files, with the table of their hashes."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from famseg.datasets._manifest import file_sha256
from famseg.datasets.defects._region import Where
from famseg.files import csv_text
from famseg.messages import InputError

TABLE_NAME = "defects.csv"
ROLES = ("complete", "defective", "implant", "region")


@dataclass(frozen=True)
class FixedCase:
    """One defect of a fixed set: a row of its table.

    Files are named relative to the folder of the set.

    Args:
        subject: The subject.
        where: Class of the defect.
        number: Number of the defect among those of the subject in this class, starting at 1.
        seed: Seed of the defect, which together with skull and settings determines it.
        area_target_cm2: Area that was drawn.
        area_cm2: Area that was measured, see `opening_area_cm2`.
        volume_ml: Volume of the removed bone in milliliters.
        source_sha256: Hash of the file that the complete skull came from.
        complete: The complete skull, a mask of 0 and 1, RAS+ like all files of the set.
        complete_sha256: Hash of the file.
        defective: The skull with the defect.
        defective_sha256: Hash of the file.
        implant: The bone that was removed.
        implant_sha256: Hash of the file.
        region: The removed region, including voxels without bone.
        region_sha256: Hash of the file.
    """

    subject: str
    where: str
    number: int
    seed: int
    area_target_cm2: float
    area_cm2: float
    volume_ml: float
    source_sha256: str
    complete: str
    complete_sha256: str
    defective: str
    defective_sha256: str
    implant: str
    implant_sha256: str
    region: str
    region_sha256: str

    @property
    def key(self) -> tuple[str, str, int]:
        """The key that identifies a defect of a set."""
        return self.subject, self.where, self.number

    def files(self) -> dict[str, str]:
        """Return the hash of each file by its name."""
        return {getattr(self, role): getattr(self, f"{role}_sha256") for role in ROLES}


_KINDS = {field.name: str(field.type) for field in fields(FixedCase)}
COLUMNS = tuple("class" if name == "where" else name for name in _KINDS)


@dataclass(frozen=True)
class FixedSet:
    """A fixed set whose files have been checked.

    Args:
        root: Its folder.
        cases: The defects, in the order of the table.
        sha256: Hash of the table, which contains the hashes of all volumes: it names the set.
    """

    root: Path
    cases: tuple[FixedCase, ...]
    sha256: str

    def names(self) -> tuple[str, ...]:
        """Return a unique name for each defect: the subject, and its class and number if needed."""
        holes = Counter(case.subject for case in self.cases)
        alike = Counter((case.subject, case.where) for case in self.cases)
        names = []
        for case in self.cases:
            name = case.subject
            if holes[case.subject] > 1:
                name += f"/{case.where}"
            if alike[case.subject, case.where] > 1:
                name += f"-{case.number}"
            names.append(name)
        return tuple(names)


def read_fixed_set(
    root: Path, *, classes: Sequence[Where] | None = None, sha256: str | None = None
) -> FixedSet:
    """Read a fixed set and check the hash of every file that it needs.

    Args:
        root: The folder written by `write_fixed_set`.
        classes: Only defects of these classes; None for all.
        sha256: Hash that the table must have.

    Raises:
        InputError: If the table is another one than expected, is damaged, or contains no such
            defects; one line for each file that is missing or has changed.
    """
    table = Path(root) / TABLE_NAME
    read = read_table(table)
    if sha256 is not None and sha256 != read.sha256:
        raise InputError(
            f"{table}: its SHA-256 is {read.sha256[:12]}..., but {sha256[:12]}... is expected: "
            "this is another set; restore it, or change sha256"
        )
    cases = tuple(case for case in read.cases if classes is None or case.where in classes)
    if not cases:
        there = ", ".join(sorted({case.where for case in read.cases})) or "nothing"
        raise InputError(f"{table}: no defect of the classes {list(classes or ())}: it has {there}")
    files = {name: digest for case in cases for name, digest in case.files().items()}
    faults = [
        fault for name, digest in files.items() if (fault := file_fault(Path(root) / name, digest))
    ]
    if faults:
        raise InputError(*faults)
    return FixedSet(Path(root), cases, read.sha256)


def file_fault(path: Path, sha256: str) -> str | None:
    """Return the error message for a changed or missing file of a set; None if it is intact."""
    if not path.is_file():
        return f"{path}: there is no such file: restore it, or write the set again"
    actual = file_sha256(path)
    if actual == sha256:
        return None
    return (
        f"{path}: its SHA-256 is {actual[:12]}..., but {sha256[:12]}... in {TABLE_NAME}: the file "
        "has changed; restore it, or write the set again"
    )


class Table(NamedTuple):
    """The rows of a table and the hash of its bytes."""

    cases: tuple[FixedCase, ...]
    sha256: str


def read_table(path: Path) -> Table:
    """Read the table of a set without its volumes.

    Raises:
        InputError: One line for each error, with the line's number.
    """
    try:
        content = path.read_bytes()
        text = content.decode()
    except FileNotFoundError:
        raise InputError(
            f"{path}: there is no such file: give the folder that `famseg defects` wrote"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    lines = csv.DictReader(io.StringIO(text))
    if tuple(lines.fieldnames or ()) != COLUMNS:
        raise InputError(f"{path}:1: the columns are not {','.join(COLUMNS)}: write the set again")
    cases: list[FixedCase] = []
    faults = []
    for line in lines:
        try:
            cases.append(_case(line))
        except ValueError as error:
            faults.append(f"{path}:{lines.line_num}: {error}")
    for key, count in Counter(case.key for case in cases).items():
        if count > 1:
            faults.append(f"{path}: {count} rows for {' '.join(map(str, key))}: keep one")
    if faults:
        raise InputError(*faults)
    return Table(tuple(cases), hashlib.sha256(content).hexdigest())


def table_bytes(cases: Iterable[FixedCase]) -> bytes:
    """Return the table of a set; the same defects give the same bytes."""
    rows = ([_text(getattr(case, name)) for name in _KINDS] for case in cases)
    return csv_text(COLUMNS, rows).encode()


def _text(value: str | int | float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _case(line: dict[str | None, str | None]) -> FixedCase:
    if None in line or None in line.values():
        raise ValueError(f"does not have {len(COLUMNS)} cells: write the set again")
    values: dict[str, str | int | float] = {}
    for (name, kind), column in zip(_KINDS.items(), COLUMNS, strict=True):
        text = line[column] or ""
        try:
            values[name] = {"int": int, "float": float, "str": str}[kind](text)
        except ValueError:
            raise ValueError(f"{column} is {text!r}, not a number: write the set again") from None
    return FixedCase(**values)  # type: ignore[arg-type]  # each value has the type of its field
