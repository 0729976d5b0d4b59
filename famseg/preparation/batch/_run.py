"""Preparation of all subjects of a source: plan, worker processes, manifest and report."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import famseg
from famseg.datasets import SkullSubject, read_manifest, write_manifest
from famseg.files import write_json
from famseg.preparation._types import Found, Identity, Source, Split
from famseg.preparation.batch._output_folder import alone, check_place, check_settings
from famseg.preparation.batch._pool import in_processes
from famseg.preparation.batch._record import (
    Folder,
    Record,
    discard,
    files_stamp,
    is_written,
    read_record,
    recorded_subjects,
    settings_key,
)
from famseg.preparation.batch._report import write_report
from famseg.preparation.batch._subject import (
    FATAL,
    Job,
    Prepare,
    failed,
    prepare_subject,
    reason_of,
)
from famseg.preparation.sources import compiled, group_labels, read_salt

RunProgress = Callable[[Record, int, int], None]

_PACKAGES = ("SimpleITK", "numpy", "scipy", "nibabel", "pydicom", "trimesh")


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Args:
        folder: The folder of the prepared skulls.
        layout: The layout of the source.
        settings: Settings of the preparation.
        order: The subjects, in the order in which they were found.
        todo: Subjects to prepare.
        unchanged: Subjects that are already prepared.
        refused: Files that cannot be used, and files that are left out.
        gone: Subjects of an earlier run that the source no longer contains.
        identities: Identity of the person in each scan, from its headers; personal data.
        group_by: Pattern that the paths of a person's scans have in common.
        keep_implausible: Whether the manifest includes results whose size or shape is not that of a
            skull.
    """

    folder: Folder
    layout: str
    settings: Mapping[str, object]
    order: tuple[str, ...]
    todo: tuple[Source, ...]
    unchanged: tuple[Record, ...]
    refused: tuple[Record, ...]
    gone: tuple[str, ...]
    identities: Mapping[str, Identity] = field(default_factory=dict, repr=False)
    group_by: re.Pattern[str] | None = None
    keep_implausible: bool = False


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Args:
        plan: The plan that was carried out.
        records: Records of all subjects, including those that were prepared earlier.
        groups: The group of each prepared subject that has one.
    """

    plan: Plan
    records: tuple[Record, ...]
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def done(self) -> tuple[Record, ...]:
        """The subjects that are prepared."""
        return tuple(r for r in self.records if r.status == "done")

    @property
    def unusable(self) -> tuple[Record, ...]:
        """The subjects that are prepared but not skulls, and so not in the manifest."""
        return () if self.plan.keep_implausible else tuple(r for r in self.done if not _usable(r))

    @property
    def undone(self) -> tuple[Record, ...]:
        """The subjects that failed or were refused."""
        return tuple(r for r in self.records if r.status in ("failed", "refused"))


def plan_run(
    found: Found,
    root: Path,
    out: Path,
    settings: Mapping[str, object],
    *,
    force: bool = False,
    group_by: str | None = None,
    keep_implausible: bool = False,
) -> Plan:
    """Plan a run without writing anything.

    Args:
        found: Content of the source.
        root: The source, a folder or file.
        out: Output folder for the prepared skulls.
        settings: Settings of the preparation, serializable as JSON.
        force: Prepare every subject again, even if it is unchanged.
        group_by: Regular expression: subjects in whose paths it finds the same text are one person,
            in addition to those that DICOM headers assign to one person.
        keep_implausible: Include results whose size or shape is not that of a skull in the
            manifest.

    Raises:
        InputError: If ``out`` overlaps with the source, was not written by this command, or
            contains skulls prepared with other settings, or if no path matches the expression.
    """
    pattern = compiled(group_by, found.sources)
    folder = Folder(out)
    check_place(root, out)
    if not force:
        check_settings(folder, settings)
    key = settings_key(settings)
    unchanged = {} if force else _unchanged(found.sources, folder, key)
    refused = tuple(
        Record(r.subject, r.origin, "left out" if r.left_out else "refused", r.reason)
        for r in found.refused
    )
    here = {s.subject for s in found.sources} | {r.subject for r in refused}
    return Plan(
        folder,
        found.layout,
        settings,
        tuple(s.subject for s in found.sources),
        tuple(s for s in found.sources if s.subject not in unchanged),
        tuple(unchanged.values()),
        refused,
        tuple(s for s in recorded_subjects(folder) if s not in here),
        {s.subject: s.identity for s in found.sources},
        pattern,
        keep_implausible,
    )


def prepare_folder(
    plan: Plan,
    prepare: Prepare,
    *,
    workers: int,
    force: bool = False,
    progress: RunProgress | None = None,
) -> Outcome:
    """Carry out a plan, and write the manifest and the report.

    Finished subjects are kept, and the same call resumes an interrupted one.

    Args:
        plan: From `plan_run`.
        prepare: The steps from scan to skull; it can be sent to another process.
        workers: Number of processes; 0 works in the calling process.
        force: Prepare unchanged subjects again.
        progress: Called with each finished subject, the number finished, and the total number.

    Raises:
        InputError: If another run is using the folder, or it cannot be created.
        OSError: If the disk is full or read-only.
    """
    folder = plan.folder
    records = {r.subject: r for r in plan.unchanged}
    with alone(folder):
        _write_state(plan)
        for refused in plan.refused:
            _forget(refused.subject, folder)
        key = settings_key(plan.settings)
        jobs = [Job(source, folder, key, prepare, force) for source in plan.todo]
        with closing(in_processes(prepare_subject, jobs, workers)) as results:
            for count, (job, result) in enumerate(results, start=1):
                record = _record_of(job, result)
                records[record.subject] = record
                if progress is not None:
                    progress(record, count, len(jobs))
        ordered = (*(records[name] for name in plan.order), *plan.refused)
        groups, subjects = _write_manifest(ordered, plan)
        write_report(
            ordered,
            folder,
            settings=plan.settings,
            layout=plan.layout,
            selectable={s.id for s in subjects},
        )
    return Outcome(plan, ordered, groups)


def _unchanged(sources: Sequence[Source], folder: Folder, key: str) -> dict[str, Record]:
    """Return the records of the unchanged subjects."""
    ready = {}
    for source in sources:
        record = read_record(source.subject, folder)
        if record is None or record.key != key:
            continue
        try:
            same = record.stamp == files_stamp(source)
        except OSError:
            continue  # the error is reported when the subject is prepared
        if same and is_written(record, folder):
            ready[source.subject] = replace(record, origin=source.origin, split=source.split)
    return ready


def _record_of(job: Job, result: Record | Exception) -> Record:
    if isinstance(result, Record):
        if result.status != "done":
            _forget(result.subject, job.folder)
        return result
    if isinstance(result, OSError) and result.errno in FATAL:
        raise result
    _forget(job.source.subject, job.folder)
    return failed(job.source, reason_of(result))


def _forget(subject: str, folder: Folder) -> None:
    """Remove the files that an earlier run wrote for a subject that is no longer prepared."""
    record = read_record(subject, folder)
    if record is not None:
        discard(record, folder)


def _write_manifest(
    records: Sequence[Record], plan: Plan
) -> tuple[dict[str, str], list[SkullSubject]]:
    """Write the manifest and return its groups and subjects."""
    folder = plan.folder
    done = [r for r in records if r.status == "done" and (plan.keep_implausible or _usable(r))]
    before = _before(folder)
    splits, groups = _splits(done, before), _groups(done, plan, before)
    excluded = {s.id for s in before if s.excluded}
    subjects = []
    for record in done:
        name, path = record.subject, folder.skull(record.subject)
        sha256 = record.files[path.relative_to(folder.path).as_posix()]
        flags = record.quality.flags if record.quality else ()
        subjects.append(
            SkullSubject(
                name,
                path,
                sha256,
                None if name in excluded else splits.get(name),
                groups.get(name, ""),
                flags,
                name in excluded,
            )
        )
    if subjects:
        write_manifest(subjects, folder.manifest)
    else:
        folder.manifest.unlink(missing_ok=True)
    return groups, subjects


def _usable(record: Record) -> bool:
    return record.quality is None or record.quality.usable


def _before(folder: Folder) -> list[SkullSubject]:
    """Return the subjects of the existing manifest, including manual changes."""
    return read_manifest(folder.manifest, check_files=False) if folder.manifest.exists() else []


def _groups(done: Sequence[Record], plan: Plan, before: Sequence[SkullSubject]) -> dict[str, str]:
    """Return the group of each subject: set by hand, or else derived from path and header."""
    given = {s.id: s.group for s in before}
    whose = [(r.subject, r.origin, plan.identities.get(r.subject, ())) for r in done]
    salted = any(identity for _, _, identity in whose)
    salt = read_salt(plan.folder.salt) if salted else b""
    return group_labels(whose, salt, plan.group_by, given)


def _splits(done: Sequence[Record], before: Sequence[SkullSubject]) -> dict[str, Split]:
    """Return the existing splits, or else those defined by the collection's layout."""
    given: dict[str, Split] = {s.id: s.split for s in before if s.split is not None}
    if given:
        return given
    stated: dict[str, Split] = {r.subject: r.split for r in done if r.split is not None}
    whole = len(stated) == len(done) and "train" in stated.values()
    return stated if whole else {}


def _write_state(plan: Plan) -> None:
    versions = {"famseg": famseg.__version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in _PACKAGES}
    write_json(
        plan.folder.state,
        {"layout": plan.layout, "settings": plan.settings, "versions": versions},
    )
