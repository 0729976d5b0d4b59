"""The evaluation of a trained network: tables, summary and image."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from famseg.engine import Processes
from famseg.evaluation.skulls._cases import (
    REGIONS,
    SOURCES,
    CaseRow,
    CaseScorer,
    Source,
    write_cases,
)
from famseg.evaluation.skulls._images import SlicesCase, slices_figure
from famseg.evaluation.skulls._shown import (
    SHOWN,
    SHOWN_INPUT,
    SHOWN_PREDICTION,
    SHOWN_REFERENCE,
    write_shown,
)
from famseg.evaluation.skulls._side_by_side import leaving_cores, side_by_side, workers_for
from famseg.evaluation.skulls._summary import Summary, summarize
from famseg.evaluation.skulls._validation import as_bool
from famseg.evaluation.skulls._variance import VarianceRatio
from famseg.figures import files
from famseg.files import fresh_part, write_atomically, write_json
from famseg.messages import InputError
from famseg.metrics import Mask
from famseg.volumes import Volume, write_volume

PREDICTIONS = "predictions"

Predict = Callable[[Tensor], Tensor]
Cases = Dataset[Mapping[str, Any]]
Progress = Callable[[str, int, int], None]
Baseline = Callable[[Mask, Mask, npt.NDArray[np.float64]], Mask]
"""A method that needs the outline of the implant as input.

Maps the defective skull and the outline, masks of shape ``(X, Y, Z)``, and the affine ``(4, 4)``
from voxels to mm to bone; its part inside the outline and outside the skull is the implant.
"""
Save = Literal["none", "failed", "all"]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        rows: One for each case, source and region, in the order of sets and cases: three for the
            network and the mean skull, one for other baselines.
        summary: Aggregates of them by set, and ``variance_ratio``; see ``summarize``.
    """

    rows: tuple[CaseRow, ...]
    summary: Summary


def evaluate(
    predict: Predict,
    sets: Mapping[str, Cases],
    mean_skull: npt.ArrayLike | None,
    folder: Path,
    *,
    processes: Processes | None = None,
    threshold: float = 0.5,
    tolerance_mm: float | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    save: Save = "none",
    progress: Progress | None = None,
) -> Evaluation:
    """Score a network and the mean skull on the same cases; write tables and an image.

    Baselines get the outline that the network predicts (`predicted_outline`) and, in a second pass,
    the removed region: such an oracle shows the best that they could reach.

    Cases are distributed to the processes and predicted one by one, so that the result does not
    depend on the number of processes. A single process scores them on as many cores as torch has
    threads. Every process must call this function and gets the whole result; the first one writes
    ``cases.csv``, ``slices.png`` (best, median and worst case of each
    set by Dice coefficient), the same cases as volumes in ``shown`` and, last, ``summary.json``: if
    it exists, the evaluation is complete. An older one is removed first.

    Args:
        predict: Maps inputs ``(1, 1, X, Y, Z)`` to masks or probabilities of the same shape. It
            must not communicate with other processes (unwrap a module from DDP) and must be
            deterministic.
        sets: Map-style data sets by name. Items hold ``image``, ``label`` and ``region`` of shape
            ``(1, X, Y, Z)``, ``subject`` and ``spacing_mm`` (3 lengths).
        mean_skull: The baseline, a mask of shape ``(X, Y, Z)``; None for no baseline.
        folder: The output folder; created if it does not exist.
        processes: The processes of the run; None for a single process.
        threshold: Probabilities above it are bone.
        tolerance_mm: The tolerance of ``nsd``; None for one voxel (the longest edge).
        baselines: Other methods by name: ``mean_skull``, ``nearest_skull``, ``mirror``,
            ``thin_plate``. Items then need ``affine``.
        save: Which completed skulls are written, as ``predictions/SET/SUBJECT.nii.gz`` with the
            item's ``affine``: none, those of failed cases, or all.
        progress: Called in the first process after each of its cases with the name of the set, the
        number of its finished cases and the number of all its cases in the set.

    Raises:
        ValueError: If a set is empty, or an output or item does not fit; with set and subject.
        InputError: If the folder cannot be written to.
    """
    # Ten parameters; an object for the seven keyword options would be used only once.
    processes = processes or Processes()
    answers = [_Answers(predict, name, cases, threshold) for name, cases in sets.items()]
    if not answers or not all(map(len, answers)):
        sizes = {each.name: len(each) for each in answers}
        raise ValueError(f"every evaluation set needs a case, got sizes {sizes}.")
    if processes.main:
        _make(folder)
    rows: list[CaseRow] = []
    ratios = {}
    for each in answers:
        parts, ratio = _score(
            each,
            processes,
            mean_skull,
            _Extras(tolerance_mm, baselines or {}, save, folder),
            progress,
        )
        dealt = [part for share in processes.gather(parts) for part in share]
        rows += [row for _, part in sorted(dealt, key=lambda part: part[0]) for row in part]
        ratio.gather(processes)
        ratios[each.name] = ratio.compute()
    summary = summarize(rows)
    for name, value in ratios.items():
        summary[name]["variance_ratio"] = value
    if processes.main:
        write_cases(rows, folder / "cases.csv")
        shown = [one for each in answers for one in _drawn(each, rows)]
        figure = slices_figure([_slices(*one) for one in shown])
        for ending, content in files(figure).items():
            write_atomically(folder / f"slices{ending}", content)
        write_shown(shown_volumes(shown), folder)
        write_json(folder / "summary.json", summary)
    return Evaluation(tuple(rows), summary)


@dataclass(frozen=True)
class _Extras:
    """The further steps for each case, after the model's metrics."""

    tolerance_mm: float | None
    baselines: Mapping[str, Baseline]
    save: Save
    folder: Path


@dataclass(frozen=True)
class _Case:
    """One case as arrays of shape (X, Y, Z), with the model's prediction."""

    subject: str
    spacing_mm: tuple[float, float, float]
    affine: npt.NDArray[np.float64] | None
    image: Mask
    label: Mask
    region: Mask
    output: Mask


@dataclass(frozen=True)
class _Answers:
    """The cases of one set with the model's predictions, one at a time."""

    predict: Predict
    name: str
    cases: Cases
    threshold: float

    def __len__(self) -> int:
        return len(self.cases)  # type: ignore[arg-type]  # map-style data sets have a length

    def __getitem__(self, index: int) -> _Case:
        item = self.cases[index]
        inputs = item["image"][None]
        with torch.no_grad():
            output = self.predict(inputs)
        try:
            if output.shape != inputs.shape:
                raise ValueError(
                    f"the output has shape {tuple(output.shape)}, the input {tuple(inputs.shape)}. "
                    "Give one channel: the probability of bone."
                )
            answer = as_bool(output, self.threshold)
        except ValueError as error:
            raise ValueError(f"{self.name}, subject {item['subject']}: {error}") from error
        x, y, z = (float(length) for length in item["spacing_mm"])
        return _Case(
            subject=str(item["subject"]),
            spacing_mm=(x, y, z),
            affine=None if "affine" not in item else np.asarray(item["affine"], dtype=np.float64),
            image=_mask(item["image"]),
            label=_mask(item["label"]),
            region=_mask(item["region"]),
            output=_mask(answer[0]),
        )


def _mask(channel: Tensor) -> Mask:
    mask: Mask = (channel[0] > 0.5).cpu().numpy()
    return mask


def _score(
    answers: _Answers,
    processes: Processes,
    mean_skull: npt.ArrayLike | None,
    extras: _Extras,
    progress: Progress | None,
) -> tuple[list[tuple[int, list[CaseRow]]], VarianceRatio]:
    """Return this rank's rows by case number, and its sums for the variance ratio."""
    share = range(processes.rank, len(answers), processes.world)
    ratio = VarianceRatio()

    def cases() -> Iterator[_Case]:
        for index in share:
            case = answers[index]
            ratio.update(case.output, case.label)
            yield case

    def scored(case: _Case) -> list[CaseRow]:
        return _rows(case, answers.name, mean_skull, extras)

    parts = []
    workers = workers_for(len(share), processes.world)
    found = side_by_side(scored, cases(), workers)
    with leaving_cores(workers), closing(found):
        for done, (index, rows) in enumerate(zip(share, found, strict=True), start=1):
            parts.append((index, rows))
            if progress is not None and processes.main:
                progress(answers.name, done, len(share))
    return parts, ratio


def _rows(
    case: _Case, dataset: str, mean_skull: npt.ArrayLike | None, extras: _Extras
) -> list[CaseRow]:
    """Score a case for all sources; write its completed skull if requested."""
    candidates: dict[Source, npt.ArrayLike] = {"model": case.output}
    if mean_skull is not None:
        candidates["mean_skull"] = mean_skull
    scorer = CaseScorer(
        case.label, case.region, case.spacing_mm, subject=case.subject, dataset=dataset
    )
    rows: list[CaseRow] = []
    for source, answer in (candidates | _baselines(case, extras.baselines)).items():
        rows += scorer.scores(
            answer,
            source=source,
            regions=REGIONS if source in candidates else ("implant",),
            tolerance_mm=extras.tolerance_mm,
        )
    failed = any(row.failed for row in rows if row.source == "model")
    if extras.save == "all" or (extras.save == "failed" and failed):
        _save(case, extras.folder / PREDICTIONS / dataset)
    return rows


def _baselines(case: _Case, baselines: Mapping[str, Baseline]) -> dict[Source, npt.ArrayLike]:
    """Return the completed skulls of all baselines, within each of the two outlines."""
    found: dict[Source, npt.ArrayLike] = {}
    if not baselines:
        return found
    if case.affine is None:
        raise ValueError(f"subject {case.subject}: baselines need the item's affine.")
    outlines = {"outlined": predicted_outline(case.output, case.image), "oracle": case.region}
    for kind, outline in outlines.items():
        for name, baseline in baselines.items():
            source = f"{kind}_{name}"
            if source not in SOURCES:
                raise ValueError(f"no baseline is called {name!r}: {', '.join(SOURCES[2:])}.")
            bone = baseline(case.image, outline, case.affine) if outline.any() else case.image
            found[source] = case.image | (bone & outline)
    return found


def predicted_outline(output: Mask, image: Mask) -> Mask:
    """Return the outline of a predicted implant: its large pieces, closed and dilated by a voxel.

    Pieces smaller than a tenth of the largest one are dropped. A voxel is added on each side
    because a method that is given the outline may be thicker than the prediction.

    Args:
        output: The completed skull, a mask of shape ``(X, Y, Z)``.
        image: The defective skull, same shape.

    Returns:
        A mask of the same shape, empty if the prediction adds nothing.
    """
    added = output & ~image
    labels, count = ndimage.label(added)
    if not count:
        return added
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large: Mask = np.isin(labels, np.flatnonzero(sizes >= sizes.max() / 10))
    padded = np.pad(large, 2)
    grown = ndimage.binary_dilation(ndimage.binary_closing(padded, iterations=2))
    outline: Mask = grown[2:-2, 2:-2, 2:-2]
    return outline


def _save(case: _Case, folder: Path) -> None:
    """Write the completed skull of a case."""
    # Cases of a fixed set are named ID/CLASS; names in a manifest are untrusted.
    parts = [part for part in case.subject.split("/") if part not in ("", ".", "..")]
    path = folder.joinpath(*parts[:-1], f"{parts[-1]}.nii.gz" if parts else "case.nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh_part(path, ".nii.gz") as part:
        write_volume(Volume(case.output.astype(np.uint8), _affine(case)), part)


def _affine(case: _Case) -> npt.NDArray[np.float64]:
    return np.diag([*case.spacing_mm, 1.0]) if case.affine is None else case.affine


def _drawn(answers: _Answers, rows: list[CaseRow]) -> list[tuple[str, _Case]]:
    """Return titles and cases: the best, the median and the worst of a set, predicted again."""
    of_model = [row for row in rows if row.set == answers.name and row.source == "model"]
    skulls = [row for row in of_model if row.region == "skull"]
    implants = [row for row in of_model if row.region == "implant"]
    order = sorted(range(len(skulls)), key=lambda index: -skulls[index].dsc)
    chosen = {order[0]: "best", order[-1]: "worst"}
    if len(order) > 2:
        chosen[order[len(order) // 2]] = "median"
    drawn = []
    for index in sorted(chosen, key=order.index):
        case = answers[index]
        skull, implant = skulls[index], implants[index]
        title = (
            f"{answers.name}, {chosen[index]} of {len(order)}: {case.subject}    "
            f"skull: {_scores(skull)}    implant: {_scores(implant)}"
        )
        drawn.append((title, case))
    return drawn


def _slices(title: str, case: _Case) -> SlicesCase:
    return SlicesCase(title, case.image, case.output, case.label, case.region, case.spacing_mm)


def shown_volumes(shown: Sequence[tuple[str, _Case]]) -> list[tuple[str, Volume]]:
    """Return the cases of the figure as volumes that combine all of their masks."""
    return [
        (
            title,
            Volume(
                (
                    SHOWN_INPUT * case.image
                    + SHOWN_REFERENCE * case.label
                    + SHOWN_PREDICTION * case.output
                ).astype(np.uint8),
                _affine(case),
            ),
        )
        for title, case in shown
    ]


def _scores(row: CaseRow) -> str:
    failed = " (failed)" if row.failed else ""
    return f"DSC {row.dsc:.3f}, HD95 {row.hd95_mm:.2f} mm{failed}"


def _make(folder: Path) -> None:
    """Create the folder and check that it is writable before the work begins."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").unlink(missing_ok=True)
        for older in (folder / PREDICTIONS, folder / SHOWN):  # results of an earlier evaluation
            if older.is_dir() and not older.is_symlink():
                shutil.rmtree(older)
        write_atomically(folder / "slices.png", b"")
        for ending in (".png", ".svg"):
            (folder / f"slices{ending}").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}). Choose another folder."
        ) from error
