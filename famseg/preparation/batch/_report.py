"""The quality report as a table with one row per subject, and as a page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from famseg.files import csv_text, write_atomically
from famseg.messages import cell
from famseg.preparation.batch._page import needs_a_look, page
from famseg.preparation.batch._page_slices import MOST_SUBJECTS, Images
from famseg.preparation.batch._record import Folder, Record
from famseg.preparation.steps import VIEWS

COLUMNS = (
    "subject",
    "status",
    "reason",
    "origin",
    "volume_ml",
    "box_right_mm",
    "box_front_mm",
    "box_top_mm",
    "components",
    "truncated_vault",
    "existing_defect",
    "flags",
    "hole_cm2",
    "threshold",
    "source_spacing_mm",
    "spacing_mm",
    "removed_ml",
    "removed",
    "alignment_residual_mm",
    "asymmetry_mm",
    "turned_deg",
    "companions",
    "warnings",
    "notes",
)
"""Columns of ``report.csv``."""


def write_report(
    records: Sequence[Record],
    folder: Folder,
    *,
    settings: Mapping[str, object],
    layout: str,
    selectable: Collection[str] = (),
) -> None:
    """Write ``report.csv`` and ``report.html``, each atomically.

    Args:
        records: All subjects, in the order of the rows.
        folder: Output folder, which contains the thumbnails.
        settings: Settings of the preparation.
        layout: The layout of the source.
        selectable: Subjects that a reader of the page can deselect, which are those in the
            manifest.
    """
    write_atomically(folder.table, table(records).encode())
    images = {r.subject: _image(folder.thumbnail(r.subject)) for r in records}
    text = page(
        records,
        images,
        settings=settings,
        layout=layout,
        selectable=selectable,
        slices=_slices(records, folder),
    )
    write_atomically(folder.report, text.encode())


def table(records: Iterable[Record]) -> str:
    """Return the report as CSV, with one row per subject.

    Truth values are ``yes`` and ``no``, unknown values are empty, and several sentences in a cell
    are separated by `` | ``. A text that a spreadsheet would interpret as a formula is prefixed
    with ``'``.
    """
    rows = map(report_row, records)
    return csv_text(
        COLUMNS, ({name: _cell(name, value) for name, value in row.items()} for row in rows)
    )


def report_row(record: Record) -> dict[str, object]:
    """Return a subject's values by column; None if a value is not known.

    Example:
        >>> report_row(Record("a", "a.nii.gz", "failed", "no bone"))["reason"]
        'no bone'
    """
    values: dict[str, object] = dict.fromkeys(COLUMNS)
    values |= {
        "subject": record.subject,
        "status": record.status,
        "reason": record.reason,
        "origin": record.origin,
        "companions": " | ".join(companions(record)),
        "notes": " | ".join(record.notes),
        "warnings": "",
    }
    quality = record.quality
    if quality is None:
        return values
    right, front, top = quality.box_mm
    return values | {
        "volume_ml": round(quality.volume_ml, 2),
        "box_right_mm": round(right, 1),
        "box_front_mm": round(front, 1),
        "box_top_mm": round(top, 1),
        "components": quality.components,
        "truncated_vault": quality.truncated_vault,
        "existing_defect": quality.existing_defect,
        "flags": " ".join(quality.flags),
        "hole_cm2": round(quality.hole_cm2, 2),
        "threshold": quality.threshold,
        "source_spacing_mm": times(quality.source_spacing_mm),
        "spacing_mm": times(quality.spacing_mm),
        "removed_ml": round(sum(quality.removed_ml.values()), 2),
        "removed": " | ".join(f"{why}: {ml:.2f}" for why, ml in quality.removed_ml.items()),
        "alignment_residual_mm": quality.alignment_residual_mm,
        "asymmetry_mm": quality.asymmetry_mm,
        "turned_deg": quality.turned_deg,
        "warnings": " | ".join(quality.warnings),
    }


def companions(record: Record) -> list[str]:
    """Return the companions of the complete skull, such as ``implant/bilateral``."""
    folders = {Path(name).parent.as_posix() for name in record.files}
    return sorted(name for name in folders if name.split("/")[0] in ("defective", "implant"))


def times(lengths: Iterable[float]) -> str:
    """Return lengths as text, separated by "x".

    Example:
        >>> times((0.5, 0.5, 1.25))
        '0.5 x 0.5 x 1.25'
    """
    return " x ".join(f"{length:.4g}" for length in lengths)


def _cell(name: str, value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if name == "subject" else cell(value)


def _slices(records: Sequence[Record], folder: Folder) -> dict[str, Images]:
    """Return the slices of as many subjects as fit on the page, those with findings first."""
    found: dict[str, Images] = {}
    for record in sorted(records, key=lambda r: not needs_a_look(r)):
        files = {view: folder.slices(record.subject, view) for view in VIEWS}
        read = {view: (_image(scan), _image(bone)) for view, (scan, bone) in files.items()}
        whole = {view: (a, b) for view, (a, b) in read.items() if a is not None and b is not None}
        if whole and record.status == "done":
            found[record.subject] = whole
        if len(found) == MOST_SUBJECTS:
            break
    return found


def _image(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
