"""One row for each case, region and source of the answer; tables of them as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from famseg.config import InputError
from famseg.evaluation._metrics import as_masks, as_spacing, dice, surface_scores
from famseg.tracking import write_atomically

Source = Literal["model", "mean_skull"]
Region = Literal["skull", "implant"]

SOURCES: tuple[Source, ...] = get_args(Source)
REGIONS: tuple[Region, ...] = get_args(Region)


@dataclass(frozen=True)
class CaseRow:
    """The scores of one answer to one case in one region.

    ``surface_scores`` defines the distances and ``nsd``.

    Attributes:
        set: Evaluation set, as ``set1``.
        subject: Who it is.
        source: Who answered: the ``model``, or the one ``mean_skull`` that ignores the input.
        region: ``skull``: everywhere; ``implant``: inside the removed region alone.
        dsc: Dice coefficient.
        tolerance_mm: What ``nsd`` tolerates.
        voxels: Size of the answer in the region.
        truth_voxels: Size of the truth in the region.
        failed: Answer or truth is empty and the other is not. Scored all the same: Dice 0, ``nsd``
            0, every distance the image's diagonal.
        empty_truth: There was nothing to find.
    """

    set: str
    subject: str
    source: Source
    region: Region
    dsc: float
    hd_mm: float
    hd95_mm: float
    hd95_directed_mm: float
    hd95_pooled_mm: float
    assd_mm: float
    nsd: float
    hd_voxels: float
    hd95_voxels: float
    hd95_directed_voxels: float
    hd95_pooled_voxels: float
    assd_voxels: float
    tolerance_mm: float
    voxels: int
    truth_voxels: int
    failed: bool
    empty_truth: bool


_KINDS: Mapping[str, str] = {field.name: str(field.type) for field in fields(CaseRow)}
METRICS = tuple(n for n, kind in _KINDS.items() if kind == "float" and n != "tolerance_mm")


def case_scores(
    prediction: npt.ArrayLike,
    label: npt.ArrayLike,
    region: npt.ArrayLike,
    spacing_mm: Sequence[float],
    *,
    subject: str,
    dataset: str,
    source: Source = "model",
    tolerance_mm: float | None = None,
) -> list[CaseRow]:
    """Score one answer: everywhere, and inside the removed region, where the implant belongs.

    Args:
        prediction: The completed skull, a mask of shape ``(X, Y, Z)``.
        label: The true skull, same shape.
        region: What was removed from the input, bone or not, same shape.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm.
        subject: Who it is.
        dataset: Name of the evaluation set.
        source: Who answered.
        tolerance_mm: What ``nsd`` tolerates; None for one voxel (the longest edge).

    Returns:
        Two rows: ``skull`` and ``implant``.

    Raises:
        ValueError: As ``surface_scores``, naming set and subject.
    """
    where = f"{dataset}, subject {subject}"
    try:
        predicted, truth = as_masks(prediction, label)
        removed, _ = as_masks(region, label)
        spacing = as_spacing(spacing_mm)
        tolerance = max(spacing) if tolerance_mm is None else tolerance_mm
        rows = []
        for name, inside in (("skull", np.ones_like(removed)), ("implant", removed)):
            answer, wanted = predicted & inside, truth & inside
            rows.append(
                CaseRow(
                    set=dataset,
                    subject=subject,
                    source=source,
                    region=name,  # type: ignore[arg-type]  # mypy widens the literal in a tuple
                    dsc=dice(answer, wanted),
                    **surface_scores(answer, wanted, spacing, tolerance_mm=tolerance),
                    tolerance_mm=tolerance,
                    voxels=int(answer.sum()),
                    truth_voxels=int(wanted.sum()),
                    failed=bool(answer.any()) != bool(wanted.any()),
                    empty_truth=not wanted.any(),
                )
            )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return rows


def write_cases(rows: Sequence[CaseRow], path: Path) -> None:
    """Write rows as CSV; a kill leaves the old file or the new one, never a part.

    Args:
        rows: What to write; floats keep every digit.
        path: The file.

    Raises:
        OSError: If it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_KINDS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomically(Path(path), text.getvalue().encode())


def read_cases(path: Path) -> list[CaseRow]:
    """Read what ``write_cases`` wrote.

    Args:
        path: The file.

    Raises:
        InputError: If it cannot be read, a column is missing or unknown, or a value does not fit;
            all faulty lines at once.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Give a cases.csv.") from error
    lines = csv.DictReader(io.StringIO(text))
    if list(lines.fieldnames or []) != list(_KINDS):
        raise InputError(
            f"{path}:1: the columns are not those of a case table. Expected: {','.join(_KINDS)}"
        )
    rows, faults = [], []
    for line in lines:
        try:
            rows.append(_row(line))
        except ValueError as error:
            faults.append(f"{path}:{lines.line_num}: {error}")
    if faults:
        raise InputError(*faults)
    return rows


def _row(line: Mapping[str | None, str | None]) -> CaseRow:
    if None in line or None in line.values():
        raise ValueError(f"does not have {len(_KINDS)} values. Write the table again.")
    return CaseRow(**{name: _value(name, line[name] or "") for name in _KINDS})  # type: ignore[arg-type]  # _value checks


def _value(name: str, text: str) -> str | int | float | bool:
    choices = {"Source": SOURCES, "Region": REGIONS, "bool": ("True", "False")}
    kind = _KINDS[name]
    if kind in choices and text not in choices[kind]:
        raise ValueError(f"{name} is {text!r}. Choose from {', '.join(choices[kind])}.")
    if kind == "bool":
        return text == "True"
    if kind in ("int", "float"):
        try:
            value = int(text) if kind == "int" else float(text)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise ValueError(f"{name} is {text!r}. Give a finite number.")
        return value
    return text
