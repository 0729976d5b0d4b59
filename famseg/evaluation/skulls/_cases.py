"""Rows for each case, region and source of the prediction, and their CSV tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from famseg.files import csv_text, write_atomically
from famseg.messages import InputError
from famseg.metrics import (
    BORDER_MM,
    METRICS,
    Mask,
    MetricValues,
    Pair,
    as_masks,
    as_spacing,
    as_tolerance,
    check_volume,
    measure,
    rim,
)

Source = Literal[
    "model",
    "mean_skull",
    "outlined_mean_skull",
    "outlined_nearest_skull",
    "outlined_mirror",
    "outlined_thin_plate",
    "oracle_mean_skull",
    "oracle_nearest_skull",
    "oracle_mirror",
    "oracle_thin_plate",
]
Region = Literal["skull", "implant", "implant_masked"]

SOURCES: tuple[Source, ...] = get_args(Source)
REGIONS: tuple[Region, ...] = get_args(Region)


@dataclass(frozen=True, kw_only=True)
class CaseRow(MetricValues):
    """The metrics of one prediction of one case in one region.

    Each metric that is a column of ``cases.csv`` is an attribute, see ``famseg.metrics.METRICS``.
    ``bdsc`` and ``roughness_mm`` are None for the whole skull, as is a metric that a table written
    by an older version does not have.

    Attributes:
        set: Evaluation set, as ``set1``.
        subject: The subject's name.
        source: What made the prediction: the ``model``, the ``mean_skull`` that ignores the input,
            or a baseline within the outline that the model predicts (``outlined_...``) or within
            the removed region, which is unknown in practice (``oracle_...``).
        region: ``skull``: the whole image; ``implant``: everything that the prediction adds to the
            defective skull; ``implant_masked``: only its part inside the removed region, as if the
            place of the implant were known.
        tolerance_mm: The tolerance of ``nsd``.
        voxels: Size of the prediction in the region.
        truth_voxels: Size of the reference in the region.
        failed: Exactly one of prediction and reference is empty. The case keeps its row: Dice 0,
            ``nsd`` 0, every distance the image's diagonal, the roughness its radius.
        empty_truth: The reference is empty.
    """

    set: str
    subject: str
    source: Source
    region: Region
    tolerance_mm: float
    voxels: int
    truth_voxels: int
    failed: bool
    empty_truth: bool


_METRICS = {metric.name: metric for metric in METRICS if metric.in_cases}
_NAMES = ("set", "subject", "source", "region")
_OTHERS = ("tolerance_mm", "voxels", "truth_voxels", "failed", "empty_truth")
_COLUMNS = (*_NAMES, *_METRICS, *_OTHERS)
_KINDS: Mapping[str, str] = {field.name: str(field.type) for field in fields(CaseRow)[1:]} | {
    name: ("int" if metric.whole else "float") + (" | None" if metric.optional else "")
    for name, metric in _METRICS.items()
}


def case_scores(
    prediction: npt.ArrayLike,
    label: npt.ArrayLike,
    region: npt.ArrayLike,
    spacing_mm: Sequence[float],
    *,
    subject: str,
    dataset: str,
    source: Source = "model",
    regions: Collection[Region] = REGIONS,
    tolerance_mm: float | None = None,
) -> list[CaseRow]:
    """Score a prediction as a skull, as an implant, and as an implant inside the removed region.

    The implant is everything that the prediction adds to the defective skull, at any place: bone in
    the wrong place counts against it. It is also scored inside the removed region only, as in other
    publications. That number uses the place of the defect, which is unknown in practice: even the
    mean skull, which ignores the defect, has a Dice coefficient of about 0.5 there.

    Args:
        prediction: The completed skull, a mask of shape ``(X, Y, Z)``.
        label: The reference skull, same shape.
        region: The region that was removed from the input, bone or not, same shape.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm.
        subject: The subject's name.
        dataset: Name of the evaluation set.
        source: What made the prediction.
        regions: The rows to compute.
        tolerance_mm: The tolerance of ``nsd``; None for one voxel (the longest edge).

    Returns:
        One row per region, in the order of ``REGIONS``.

    Raises:
        ValueError: As ``surface_scores``, naming set and subject.
    """
    # Nine parameters: those of CaseScorer and of its `scores`, for a single prediction.
    case = CaseScorer(label, region, spacing_mm, subject=subject, dataset=dataset)
    return case.scores(prediction, source=source, regions=regions, tolerance_mm=tolerance_mm)


class CaseScorer:
    """Scores several predictions of one case as `case_scores` does.

    What does not depend on the prediction is computed once, and equal predictions are scored once:
    inside the removed region, the mean skull gives the same implant as an oracle and as a masked
    prediction.

    Args:
        label: The reference skull, a mask of shape ``(X, Y, Z)``.
        region: The region that was removed from the input, bone or not, same shape.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm.
        subject: The subject's name.
        dataset: Name of the evaluation set.

    Raises:
        ValueError: As ``surface_scores``, naming set and subject.
    """

    def __init__(
        self,
        label: npt.ArrayLike,
        region: npt.ArrayLike,
        spacing_mm: Sequence[float],
        *,
        subject: str,
        dataset: str,
    ) -> None:
        self._subject, self._dataset = subject, dataset
        with self._named():
            self._removed, self._truth = as_masks(region, label)
            self._spacing = as_spacing(spacing_mm)
            check_volume(self._truth)
        self._bone = self._truth & ~self._removed
        self._known: dict[tuple[bool, float, bytes], dict[str, Any]] = {}

    def scores(
        self,
        prediction: npt.ArrayLike,
        *,
        source: Source = "model",
        regions: Collection[Region] = REGIONS,
        tolerance_mm: float | None = None,
    ) -> list[CaseRow]:
        """Score a prediction; see `case_scores`."""
        with self._named():
            predicted, truth = as_masks(prediction, self._truth)
            tolerance = as_tolerance(tolerance_mm, self._spacing)
            inside = truth & self._removed
            pairs: dict[Region, tuple[Mask, Mask]] = {
                "skull": (predicted, truth),
                "implant": (predicted & ~self._bone, inside),
                "implant_masked": (predicted & self._removed, inside),
            }
            return [
                CaseRow(
                    set=self._dataset,
                    subject=self._subject,
                    source=source,
                    region=name,
                    **self._measured(*pairs[name], tolerance, implant=name != "skull"),
                )
                for name in REGIONS
                if name in regions
            ]

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self._dataset}, subject {self._subject}: {error}") from error

    def _measured(
        self, prediction: Mask, truth: Mask, tolerance: float, *, implant: bool
    ) -> dict[str, Any]:
        key = implant, tolerance, np.packbits(prediction).tobytes()
        if key not in self._known:
            pair = Pair(prediction, truth, self._spacing, tolerance, "diagonal", None, None)
            if implant:
                implants = prediction, truth
                pair = replace(pair, implants=implants, defective=self._bone, rim=self._rim)
            self._known[key] = _measured(pair)
        return self._known[key]

    @cached_property
    def _rim(self) -> Mask:
        return rim(self._bone, self._spacing, BORDER_MM)


def _measured(pair: Pair) -> dict[str, Any]:
    """Return the values of a row without its names."""
    return {
        "values": measure(pair, _METRICS),
        "tolerance_mm": pair.tolerance,
        "voxels": int(np.count_nonzero(pair.prediction)),
        "truth_voxels": int(np.count_nonzero(pair.truth)),
        "failed": pair.failed,
        "empty_truth": bool(not pair.truth.any()),
    }


def write_cases(rows: Sequence[CaseRow], path: Path) -> None:
    """Write rows as CSV; a kill leaves the old file or the new one, never a part.

    Args:
        rows: The rows; floats keep every digit, None gives an empty cell.
        path: The file.

    Raises:
        OSError: If it cannot be written.
    """
    cells = (
        {name: getattr(row, name) for name in (*_NAMES, *_OTHERS)} | dict(row.values)
        for row in rows
    )
    write_atomically(Path(path), csv_text(_COLUMNS, cells).encode())


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
    # A table of an older version lacks metrics that were added later.
    columns = list(lines.fieldnames or [])
    if columns != [name for name in _COLUMNS if name in columns or name not in _METRICS]:
        raise InputError(
            f"{path}:1: the columns are not those of a case table. Expected: {','.join(_COLUMNS)}"
        )
    rows, faults = [], []
    for line in lines:
        try:
            rows.append(_row(line, columns))
        except ValueError as error:
            faults.append(f"{path}:{lines.line_num}: {error}")
    if faults:
        raise InputError(*faults)
    return rows


def _row(line: Mapping[str | None, str | None], columns: Sequence[str]) -> CaseRow:
    if None in line or None in line.values():
        raise ValueError(f"does not have {len(columns)} values. Write the table again.")
    found = {name: _value(name, line[name] or "") for name in columns}
    others = {name: found[name] for name in (*_NAMES, *_OTHERS)}
    values: dict[str, Any] = {name: found.get(name) for name in _METRICS}
    return CaseRow(values=values, **others)  # type: ignore[arg-type]  # _value checks


def _value(name: str, text: str) -> str | int | float | bool | None:
    choices = {"Source": SOURCES, "Region": REGIONS, "bool": ("True", "False")}
    kind = _KINDS[name]
    if kind in choices and text not in choices[kind]:
        raise ValueError(f"{name} is {text!r}. Choose from {', '.join(choices[kind])}.")
    if kind == "bool":
        return text == "True"
    number, optional, _ = kind.partition(" | None")
    if optional and not text:
        return None
    if number in ("int", "float"):
        try:
            value = int(text) if number == "int" else float(text)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise ValueError(f"{name} is {text!r}. Give a finite number.")
        return value
    return text
