"""Preparation of one subject in a separate process, from reading it to writing its files."""

from __future__ import annotations

import errno
import gzip
import hashlib
import logging
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import nibabel
import numpy as np

from famseg.files import write_atomically
from famseg.messages import InputError
from famseg.preparation._types import Prepared, Role, Scan, Source
from famseg.preparation.batch._leakage import signature, signature_text
from famseg.preparation.batch._pool import CrashedError
from famseg.preparation.batch._record import (
    Folder,
    Record,
    discard,
    files_content,
    files_stamp,
    is_written,
    read_record,
    write_record,
)
from famseg.preparation.batch._thumbnails import thumbnail
from famseg.preparation.steps import images
from famseg.volumes import Volume

_logger = logging.getLogger("famseg")

# Errors of the disk, not of the subject: the next subject would fail in the same way.
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Prepare(Protocol):
    """The steps from a scan to a skull: `prepare_scan` with its settings."""

    def __call__(self, scan: Scan, *, companions: Mapping[tuple[Role, str], Scan]) -> Prepared:
        """Return the skull and its companions."""


@dataclass(frozen=True)
class Job:
    """The data that a process needs to prepare one subject.

    Args:
        source: The subject.
        folder: Output folder of its files.
        key: Hash of the settings.
        prepare: The steps from scan to skull.
        fresh: Whether to prepare it again even if nothing has changed.
    """

    source: Source
    folder: Folder
    key: str
    prepare: Prepare
    fresh: bool = False


def prepare_subject(job: Job) -> Record:
    """Read, prepare and write one subject; its record is written last.

    Returns:
        The record. If the subject cannot be prepared, it states the reason, and none of the
        subject's files remain in the folder.

    Raises:
        OSError: If the disk is full or read-only.
    """
    source, old = job.source, read_record(job.source.subject, job.folder)
    try:
        content, stamp = files_content(source), files_stamp(source)
        if old is not None and not job.fresh and _unchanged(old, job, content):
            record = replace(old, stamp=stamp, origin=source.origin, split=source.split)
            write_record(record, job.folder)
            return record
        if old is not None:
            discard(old, job.folder)
        scan = source.read()
        others = {(c.role, c.defect): c.read() for c in source.companions}
        prepared = job.prepare(scan, companions=others)
        notes = dict.fromkeys((*scan.notes, *(n for o in others.values() for n in o.notes)))
        record = _write(job, prepared, tuple(impersonal(n, source) for n in notes))
        record = replace(record, content=content, stamp=stamp)
        write_record(record, job.folder)
        return record
    except (Exception, MemoryError) as error:
        if isinstance(error, OSError) and error.errno in FATAL:
            raise
        _logger.debug("%s failed", source.subject, exc_info=True)
        return failed(source, reason_of(error))


def failed(source: Source, reason: str) -> Record:
    """Return the record of a subject that could not be prepared."""
    reason = impersonal(reason, source).removeprefix(f"{source.subject}: ")  # no repeated name
    return Record(source.subject, source.origin, "failed", reason)


def reason_of(error: BaseException) -> str:
    """Return the reason why a subject failed as one line."""
    if isinstance(error, InputError):
        text = "; ".join(error.faults)
    elif isinstance(error, CrashedError):
        text = _crash(error.exit_code)
    elif isinstance(error, MemoryError):
        text = "out of memory: use fewer --workers, or resample the scan first"
    elif isinstance(error, OSError):
        text = error.strerror or type(error).__name__
    else:
        text = f"{type(error).__name__}: {error}: this is a bug in famseg, please report it"
    return " ".join(text.split())


def _crash(exit_code: int | None) -> str:
    if exit_code is None or exit_code == -signal.SIGKILL:
        return (
            "the process that prepared it was killed, most likely because memory ran out: free "
            "some, or resample the scan first"
        )
    by = signal.Signals(-exit_code).name if exit_code < 0 else f"exit status {exit_code}"
    return f"the process that prepared it crashed ({by}): this is a bug in famseg, please report it"


def impersonal(text: str, source: Source) -> str:
    """Return a text without the paths of the originals, which often contain names of people.

    Example:
        >>> from pathlib import Path
        >>> scan = Path("/home/ann/Bob Smith/head.nii")
        >>> source = Source("s1", "series 1", (scan,), read=lambda: None)
        >>> impersonal(f"{scan}: cut short, see /tmp/x/y.dcm", source)
        'series 1: cut short, see (a file)'
    """
    known: dict[str, str] = {}
    for file in source.files:
        for path in (file, file.absolute(), file.resolve()):
            known[str(path)] = source.origin
            known.update((str(p), "(a folder)") for p in path.parents if len(p.parts) > 1)
    for path_text in sorted(known, key=len, reverse=True):
        text = text.replace(path_text, known[path_text])
    return re.sub(r"(?<![\w.)])/(?:[^/\s:'\"]+/)+[^/\s:'\",;)]*", "(a file)", text)


def nifti(volume: Volume) -> bytes:
    """Return a mask as a compressed NIfTI file; the same mask gives the same bytes.

    It is created in memory, so that a full disk is noticed. The header holds only grid and
    geometry.
    """
    image = nibabel.Nifti1Image(volume.array.astype(np.uint8), volume.affine)
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def _unchanged(old: Record, job: Job, content: str) -> bool:
    same = (old.key, old.content) == (job.key, content)
    return same and is_written(old, job.folder)


def _write(job: Job, prepared: Prepared, notes: tuple[str, ...]) -> Record:
    """Write the files of a subject and return its record."""
    source, folder = job.source, job.folder
    implants = [v for (role, _), v in prepared.companions.items() if role == "implant"]
    holed = [v for (role, _), v in prepared.companions.items() if role == "defective"]
    shown = (holed[0], implants[0]) if holed and implants else (prepared.skull, None)
    contents = {folder.skull(source.subject): nifti(prepared.skull)}
    for (role, defect), volume in prepared.companions.items():
        contents[folder.companion(source.subject, role, defect)] = nifti(volume)
    contents[folder.thumbnail(source.subject)] = thumbnail(*shown)
    for view, slices in prepared.slices.items():
        contents |= zip(folder.slices(source.subject, view), images(slices), strict=True)
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    quality = replace(
        prepared.quality,
        removed_ml=dict(prepared.quality.removed_ml),
        warnings=tuple(impersonal(w, source) for w in prepared.quality.warnings),
    )
    return Record(
        subject=source.subject,
        origin=source.origin,
        status="done",
        split=source.split,
        quality=quality,
        notes=tuple(note for note in notes if note not in quality.warnings),
        files={
            path.relative_to(folder.path).as_posix(): hashlib.sha256(content).hexdigest()
            for path, content in contents.items()
        },
        key=job.key,
        signature=signature_text(signature(prepared.skull)),
        to_source=tuple(float(x) for x in np.asarray(prepared.to_source).ravel()),
    )
