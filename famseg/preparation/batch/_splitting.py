"""Splitting of the subjects of a folder such that each person is in only one split."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from famseg.datasets import (
    Selection,
    SkullSubject,
    divided_groups,
    read_subject_list,
    scan_folder,
    select_subjects,
    split_subjects,
    strata_of,
    write_manifest,
)
from famseg.messages import InputError
from famseg.preparation.batch._leakage import (
    Duplicate,
    Signature,
    duplicates,
    signature,
    signature_of_text,
)
from famseg.preparation.batch._record import Folder, read_record
from famseg.preparation.batch._same_head import heads_and_pairs, same_heads
from famseg.preparation.sources import linked
from famseg.volumes import read_volume


@dataclass(frozen=True)
class Splitting:
    """The splits of a folder.

    Args:
        manifest: The manifest file.
        subjects: All subjects with their splits; excluded subjects have none.
        selection: The excluded subjects and the reasons.
        kept: Whether existing splits were kept.
        strata: The stratum of each subject, by id; empty without stratification.
        pairs: Pairs of subjects that are the same skull; both are in the same split.
    """

    manifest: Path
    subjects: tuple[SkullSubject, ...]
    selection: Selection
    kept: bool
    strata: Mapping[str, str]
    pairs: tuple[Duplicate, ...]


# Long, with many parameters, because it offers the options of `famseg split` to library users.
def split_folder(
    root: Path,
    *,
    validation: float,
    test: float,
    seed: int,
    stratify: str | None = None,
    table: Path | None = None,
    allow_duplicates: bool = False,
    exclude: Collection[str] = (),
    include: Collection[str] = (),
    exclude_list: Path | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Splitting:
    """Write a split for every subject of a folder into its manifest.

    Subjects of one group (column ``group`` of the manifest) are one person and stay together, as do
    subjects that are the same skull. Shares and strata are counted in people. Subjects with a
    truncated vault or an existing defect, and those that are excluded, are marked ``excluded``
    instead of getting a split; they are neither compared nor counted. If there are splits already,
    only subjects selected by ``exclude`` and ``exclude_list`` lose theirs; all others keep theirs.

    Args:
        root: A folder of prepared skulls, or any folder of volumes; a missing manifest is created.
        validation: Fraction of the people for validation.
        test: Fraction of the people for the test.
        seed: Random seed of the split.
        stratify: Column of the strata; each split gets the same proportion of every stratum.
        table: CSV with the columns ``subject`` and ``stratify``; ``report.csv`` by default.
        allow_duplicates: Put subjects that are the same skull into one split instead of refusing
            them.
        exclude: Flags; subjects with any of them are excluded, too.
        include: Flags that do not exclude a subject.
        exclude_list: File that names the subjects to exclude, one per line.
        force: Replace existing splits; subjects that were excluded are included again.
        progress: Called with the number of skulls read and their total number.

    Raises:
        InputError: With one line for each pair of subjects that are the same skull, or for another
            error; the manifest is then unchanged.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "there is no such folder"
        raise InputError(f"{root}: {what}: name the folder of the prepared skulls")
    if table is not None and stratify is None:
        raise InputError("--table: is used only with --stratify COLUMN: name the column")
    found = scan_folder(root)
    kept = not force and any(s.split is not None for s in found)
    if force:
        found = [replace(s, split=None, excluded=False) for s in found]
    unwanted = read_subject_list(exclude_list, (s.id for s in found)) if exclude_list else ()
    selection = select_subjects(found, exclude=exclude, include=include, unwanted=unwanted)
    named = {s.id for s in found if s.id in unwanted or not set(exclude).isdisjoint(s.flags)}
    found = _marked(found, named if kept else selection.left_out)
    used = [s for s in found if s.split is not None or s.id not in selection.left_out]
    strata = {} if stratify is None else _strata(used, stratify, table or Folder(root).table)
    if not kept:
        _split(used, (), validation, test, seed, strata)  # reports errors before the slow part
    pairs = _one_head(used, root, progress)
    group = {s.id: s.group or s.id for s in used}
    unknown = [pair for pair in pairs if group[pair.first] != group[pair.second]]
    if unknown and not allow_duplicates:
        raise InputError(*(_refusal(pair) for pair in unknown))
    new = _kept(used, pairs) if kept else _split(used, pairs, validation, test, seed, strata)
    by_id = {s.id: s for s in new}
    subjects = tuple(by_id.get(s.id, s) for s in found)
    manifest = Folder(root).manifest
    if not kept or any(s.excluded for s in found):
        write_manifest(subjects, manifest)
    return Splitting(manifest, subjects, selection, kept, strata, tuple(pairs))


def _marked(found: Iterable[SkullSubject], out: Collection[str]) -> list[SkullSubject]:
    return [replace(s, split=None, excluded=True) if s.id in out else s for s in found]


def _one_head(
    found: Sequence[SkullSubject], root: Path, progress: Callable[[int, int], None] | None
) -> list[Duplicate]:
    """Return the pairs that are the same skull, found without and with alignment."""
    count = sum(s.file is not None for s in found)
    total = count + heads_and_pairs(count)

    def moved(by: int) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, _: progress(by + done, total)

    pairs = duplicates({s.id: s.sha256 for s in found}, _signatures(found, root, moved(0)))
    known = _people(found, pairs)
    files = {s.id: s.file for s in found if s.file is not None}
    return sorted(
        [*pairs, *same_heads(files, known, progress=moved(count))],
        key=lambda pair: (pair.first, pair.second),
    )


def _split(
    found: Sequence[SkullSubject],
    pairs: Sequence[Duplicate],
    validation: float,
    test: float,
    seed: int,
    strata: Mapping[str, str],
) -> list[SkullSubject]:
    """Split people: groups together with the subjects linked to them by the same skull."""
    person = _people(found, pairs)
    drawn = split_subjects(
        [replace(s, split=None, group=person.get(s.id, "")) for s in found],
        validation,
        test,
        seed,
        strata=strata,
    )
    return [replace(s, split=new.split) for s, new in zip(found, drawn, strict=True)]


def _people(found: Sequence[SkullSubject], pairs: Sequence[Duplicate]) -> dict[str, str]:
    """Return the person of each subject that shares its person with another subject.

    A person is named after its group, so that a further scan does not change its split; without a
    group, after its first subject.
    """
    first: dict[str, str] = {}
    leader = linked(
        [(pair.first, pair.second) for pair in pairs]
        + [(first.setdefault(s.group, s.id), s.id) for s in found if s.group]
    )
    names: dict[str, set[str]] = defaultdict(set)
    for subject in found:
        names[leader.get(subject.id, subject.id)] |= {subject.group} - {""}
    return {s: min(names[person], default=person) for s, person in leader.items()}


def _kept(found: Sequence[SkullSubject], pairs: Sequence[Duplicate]) -> list[SkullSubject]:
    """Return the subjects with their existing splits, if these are complete and free of leakage."""
    without = [s.id for s in found if s.split is None]
    if without:
        raise InputError(
            f"split: {len(found) - len(without)} of {len(found)} subjects have a split, "
            f"{without[0]} has none: split all of them anew with --force, or complete the manifest"
        )
    split = {s.id: s.split for s in found}
    faults = [
        f"split: {p.first} is in {split[p.first]}, and {p.second}, the same skull, is in "
        f"{split[p.second]}: split again with --force"
        for p in pairs
        if split[p.first] != split[p.second]
    ]
    faults += [f"{fault}, or change the column group" for fault in divided_groups(found)]
    if faults:
        raise InputError(*faults)
    return list(found)


def _refusal(pair: Duplicate) -> str:
    what = {
        "same file": "the same file",
        "near-duplicate": f"near-duplicates (Dice {pair.dice:.3f})",
        "same head": f"the same head in another pose (Dice {pair.dice:.3f} after alignment)",
    }[pair.kind]
    return (
        f"split: {pair.first} and {pair.second} are {what}: remove one from the manifest, give "
        "both the same group there, or keep both in one split with --allow-duplicates"
    )


def _signatures(
    subjects: Sequence[SkullSubject], root: Path, progress: Callable[[int, int], None] | None
) -> dict[str, Signature]:
    """Return the coarse shape of each skull, read from its record or computed from the volume."""
    shapes: dict[str, Signature] = {}
    faults: list[str] = []
    for count, subject in enumerate(subjects, start=1):
        try:
            shape = _recorded(subject, root)
            if shape is None and subject.file is not None:
                shape = signature(read_volume(subject.file))
            if shape is not None:
                shapes[subject.id] = shape
        except InputError as error:
            faults += error.faults
        if progress is not None:
            progress(count, len(subjects))
    if faults:
        raise InputError(*faults)
    return shapes


def _recorded(subject: SkullSubject, root: Path) -> Signature | None:
    """Return the coarse shape recorded when this file was prepared."""
    record = read_record(subject.id, Folder(root))
    if record is None or subject.sha256 not in record.files.values():
        return None
    try:
        return signature_of_text(record.signature)
    except ValueError:
        return None


def _strata(found: Iterable[SkullSubject], column: str, table: Path) -> dict[str, str]:
    """Return the stratum of each subject from a column of a table."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except FileNotFoundError:
        raise InputError(f"{table}: there is no such file: name a table with --table") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: is not a readable CSV in UTF-8 ({error})") from error
    missing = [name for name in ("subject", column) if name not in columns]
    if missing:
        raise InputError(
            f"{table}: has no column {missing[0]!r}: its columns are {', '.join(columns) or 'none'}"
        )
    values = {row["subject"]: row[column] or "" for row in rows}
    unknown = [s.id for s in found if s.id not in values]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise InputError(
            f"{table}: has no row for {', '.join(unknown[:3])}{more}: add them, with an empty cell "
            "if nothing is known"
        )
    return strata_of({s.id: values[s.id] for s in found})
