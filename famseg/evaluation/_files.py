"""Masks in files: which belong together, whether they share a grid, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from famseg.config import InputError
from famseg.datasets import Volume, read_volume
from famseg.evaluation._masks import Empty
from famseg.evaluation._pair import Kind
from famseg.evaluation._scores import Scores, score, score_labels

# Headers are written with few digits: what differs by less than this part of a voxel is the same.
_SAME = 0.01


@dataclass(frozen=True)
class FilePair:
    """The files of one case.

    Attributes:
        name: The file's path below its folder, without the ending.
        prediction: Predicted mask.
        truth: True mask.
        defective: The skull with the hole, if it is known.
    """

    name: str
    prediction: Path
    truth: Path
    defective: Path | None = None


def pair_files(
    prediction: Path, truth: Path, defective: Path | None = None
) -> tuple[list[FilePair], list[str]]:
    """Find which files belong together: two files, or those of equal names in two folders.

    Names are compared without their endings, sub-folders count: ``a/001.nrrd`` goes with
    ``a/001.nii.gz``.

    Args:
        prediction: A file, or a folder of predictions.
        truth: A file, or a folder.
        defective: A file, or a folder, of skulls with their holes.

    Returns:
        The pairs by name, and a line for each file that has no counterpart.

    Raises:
        InputError: If one is a folder and another a file, one does not exist, or no pair is found.
    """
    given = [path for path in (prediction, truth, defective) if path is not None]
    missing = [f"{path}: there is no such file or folder" for path in given if not path.exists()]
    if missing:
        raise InputError(*missing)
    if not any(path.is_dir() for path in given):
        return [FilePair(_name(prediction, prediction.parent), prediction, truth, defective)], []
    if not all(path.is_dir() for path in given):
        file = next(path for path in given if not path.is_dir())
        raise InputError(f"{file}: is a file, and another is a folder: give files or folders alone")
    predictions, truths = _volumes(prediction), _volumes(truth)
    skulls = None if defective is None else _volumes(defective)
    pairs = []
    lines = [f"{truths[name]}: no prediction of that name" for name in truths.keys() - predictions]
    for name, path in predictions.items():
        if name not in truths:
            lines.append(f"{path}: no truth of that name in {truth}")
        elif skulls is not None and name not in skulls:
            lines.append(f"{path}: no defective skull of that name in {defective}")
        else:
            skull = None if skulls is None else skulls[name]
            pairs.append(FilePair(name, path, truths[name], skull))
    if not pairs:
        raise InputError(
            f"{prediction} and {truth}: no two files have the same name. Name a prediction as its "
            "truth; endings may differ."
        )
    return pairs, sorted(lines)


def score_files(
    pair: FilePair,
    *,
    labels: Sequence[int] | None = None,
    every_label: bool = False,
    kind: Kind = "auto",
    tolerance_mm: float | None = None,
    empty: Empty = "diagonal",
) -> dict[int | None, Scores]:
    """Read the files of a case and score them.

    Args:
        pair: The files.
        labels: Score these labels, each by itself.
        every_label: Score every label that is there.
        kind: As in ``score``.
        tolerance_mm: As in ``score``.
        empty: As in ``score``.

    Returns:
        Scores by label; of a mask, under None.

    Raises:
        InputError: If a file cannot be read, holds no mask, or the files do not share a grid.
    """
    paths = [pair.prediction, pair.truth, *([pair.defective] if pair.defective else [])]
    volumes = [read_volume(path) for path in paths]
    faults = [fault for each in volumes if (fault := _off_grid(each, volumes[1])) is not None]
    if faults:
        raise InputError(*faults)
    prediction, truth = volumes[:2]
    try:
        if every_label or labels is not None:
            of_labels = score_labels(
                prediction.array,
                truth.array,
                truth.spacing_mm,
                labels=labels,
                tolerance_mm=tolerance_mm,
                empty=empty,
            )
            return dict(of_labels.items())
        result = score(
            _binary(prediction),
            _binary(truth),
            truth.spacing_mm,
            defective=_binary(volumes[2]) if pair.defective else None,
            kind=kind,
            tolerance_mm=tolerance_mm,
            empty=empty,
        )
        return {None: result}
    except ValueError as error:
        raise InputError(f"{pair.prediction}: {error}") from error


def _volumes(folder: Path) -> dict[str, Path]:
    """Return the volumes below a folder by name; two of one name are a fault."""
    from famseg.datasets._volume import volume_suffix

    found: dict[str, Path] = {}
    faults = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or volume_suffix(path) is None or not path.is_file():
            continue
        name = _name(path, folder)
        if name in found:
            faults.append(f"{path}: has the name of {found[name]}: keep one of them")
        found[name] = path
    if faults:
        raise InputError(*faults)
    if not found:
        raise InputError(f"{folder}: holds no volume (NIfTI, NRRD, MHA or MHD)")
    return found


def _name(path: Path, folder: Path) -> str:
    from famseg.datasets._volume import volume_suffix

    name = path.relative_to(folder).as_posix()
    return name[: len(name) - len(volume_suffix(path) or "")]


def _off_grid(volume: Volume, truth: Volume) -> str | None:
    """Return how a volume's grid differs from the truth's, and what to do; None if it does not."""
    parts = []
    if volume.array.shape != truth.array.shape:
        parts.append(f"shape {_text(volume.array.shape)} against {_text(truth.array.shape)}")
    spacing, wanted = np.array(volume.spacing_mm), np.array(truth.spacing_mm)
    if (np.abs(spacing - wanted) * max(truth.array.shape) > _SAME * 10 * wanted).any():
        parts.append(f"spacing {_text(volume.spacing_mm)} against {_text(truth.spacing_mm)} mm")
    axes, wanted_axes = volume.affine[:3, :3] / spacing, truth.affine[:3, :3] / wanted
    if np.abs(axes - wanted_axes).max() > _SAME:
        parts.append(f"orientation {_axes(volume)} against {_axes(truth)}")
    elif (np.abs(volume.affine[:3, 3] - truth.affine[:3, 3]) > _SAME * 10 * wanted.max()).any():
        origins = _text(volume.affine[:3, 3]), _text(truth.affine[:3, 3])
        parts.append(f"origin {origins[0]} against {origins[1]} mm")
    if not parts:
        return None
    return (
        f"{volume.path}: does not lie on the grid of {truth.path}: {'; '.join(parts)}. Resample it "
        "to that grid by nearest neighbour, or mend the header that is wrong."
    )


def _axes(volume: Volume) -> str:
    """Return where the axes lead: RAS for right, anterior, superior, with angles if oblique."""
    directions = volume.affine[:3, :3] / np.array(volume.spacing_mm)
    letters = []
    for column in directions.T:
        main = int(np.argmax(np.abs(column)))
        letters.append("RAS"[main] if column[main] > 0 else "LPI"[main])
    oblique = np.abs(np.abs(directions).max(axis=0) - 1).max() > 1e-3
    return "".join(letters) + (" (oblique)" if oblique else "")


def _text(numbers: Sequence[float] | npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{float(number):.6g}" for number in numbers)


def _binary(volume: Volume) -> npt.NDArray[np.bool_]:
    """Return a mask whose foreground is the one value that is not 0."""
    array = volume.array
    if array.min() < 0:
        raise InputError(f"{volume.path}: holds negative values, down to {array.min():g}: no mask")
    mask: npt.NDArray[np.bool_] = array != 0
    top = array.max()
    if (mask & (array != top)).any():
        whole = array.dtype.kind in "iub" or np.array_equal(array, np.round(array))
        what = (
            "more than one label. Score each: --labels"
            if whole
            else ("numbers that are not whole. Threshold it, as at a probability of 0.5")
        )
        raise InputError(f"{volume.path}: holds {what}.")
    return mask
