"""Metrics of masks in files: pairing, grids and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from famseg.evaluation.skulls._grid import on_grid
from famseg.messages import InputError
from famseg.metrics import Empty, Kind, Scores, score, score_labels, values_of
from famseg.volumes import Volume, read_volume


@dataclass(frozen=True)
class FilePair:
    """The files of one case.

    Attributes:
        name: The file's path below its folder, without the ending.
        prediction: Predicted mask.
        truth: Reference mask.
        defective: The skull with the defect, if it is known.
    """

    name: str
    prediction: Path
    truth: Path
    defective: Path | None = None


def pair_files(
    prediction: Path, truth: Path, defective: Path | None = None
) -> tuple[list[FilePair], list[str]]:
    """Find the pairs of files: two files, or those with equal names in two folders.

    Names are compared without suffixes but with sub-folders: ``a/001.nrrd`` matches
    ``a/001.nii.gz``.

    Args:
        prediction: A file, or a folder of predictions.
        truth: A file, or a folder.
        defective: A file, or a folder, of skulls with their defects.

    Returns:
        The pairs by name, and a line for each file that has no counterpart.

    Raises:
        InputError: If one is a folder and another a file, one does not exist, or no pair is found.
    """
    prediction, truth = _header(prediction), _header(truth)
    defective = None if defective is None else _header(defective)
    given = [path for path in (prediction, truth, defective) if path is not None]
    missing = [f"{path}: there is no such file or folder" for path in given if not path.exists()]
    if missing:
        raise InputError(*missing)
    if not any(path.is_dir() for path in given):
        return [FilePair(_name(prediction, prediction.parent), prediction, truth, defective)], []
    if not all(path.is_dir() for path in given):
        file = next(path for path in given if not path.is_dir())
        raise InputError(f"{file}: is a file, but another is a folder: give files or folders only")
    predictions, truths = _volumes(prediction), _volumes(truth)
    skulls = None if defective is None else _volumes(defective)
    pairs = []
    unmatched = truths.keys() - predictions
    lines = [f"{truths[name]}: no prediction with this name" for name in unmatched]
    for name, path in predictions.items():
        if name not in truths:
            lines.append(f"{path}: no reference with this name in {truth}")
        elif skulls is not None and name not in skulls:
            lines.append(f"{path}: no defective skull with this name in {defective}")
        else:
            skull = None if skulls is None else skulls[name]
            pairs.append(FilePair(name, path, truths[name], skull))
    if not pairs:
        raise InputError(
            f"{prediction} and {truth}: no two files have the same name. Give each prediction the "
            "name of its reference; endings may differ."
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
    resample: bool = False,
) -> dict[int | None, Scores]:
    """Read the files of a case and score them.

    Args:
        pair: The files.
        labels: Score these labels, as separate masks.
        every_label: Score every label in the files.
        kind: As in ``score``.
        tolerance_mm: As in ``score``.
        empty: As in ``score``.
        resample: Resample prediction and defective skull to the grid of the reference by nearest
        neighbor if their grids differ. Flipped or exchanged axes are always reordered, which moves
        no voxel.

    Returns:
        Scores by label; for a mask, the key is None.

    Raises:
        InputError: If a file cannot be read or is not a mask, or the files do not share a grid.
    """
    truth = read_volume(pair.truth, flat="keep")
    placed: list[Volume] = []
    faults: list[str] = []
    for path in (pair.prediction, pair.defective):
        try:
            placed += [] if path is None else [_placed(path, truth, resample)]
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*faults)
    prediction, *skulls = placed
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
            defective=_binary(skulls[0]) if skulls else None,
            kind=kind,
            tolerance_mm=tolerance_mm,
            empty=empty,
        )
        return {None: result}
    except ValueError as error:
        raise InputError(f"{pair.prediction}: {error}") from error


def _header(path: Path) -> Path:
    """Return the header for the voxel file of a NIfTI pair; other paths are returned unchanged."""
    header = path.with_suffix(".hdr")
    return header if path.suffix.lower() == ".img" and header.is_file() else path


def _volumes(folder: Path) -> dict[str, Path]:
    """Return the volumes below a folder by name; two with the same name are an error."""
    from famseg.volumes import volume_suffix

    found: dict[str, Path] = {}
    faults = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or volume_suffix(path) is None or not path.is_file():
            continue
        name = _name(path, folder)
        if name in found:
            faults.append(f"{path}: has the same name as {found[name]}: keep one of them")
        found[name] = path
    if faults:
        raise InputError(*faults)
    if not found:
        raise InputError(f"{folder}: contains no volume (NIfTI, NRRD, MHA or MHD)")
    return found


def _name(path: Path, folder: Path) -> str:
    from famseg.volumes import volume_suffix

    name = path.relative_to(folder).as_posix()
    return name[: len(name) - len(volume_suffix(path) or "")]


def _placed(path: Path, truth: Volume, resample: bool) -> Volume:
    """Read a volume into the voxels of the reference."""
    # A resampled volume may have any axes, but those of the reference must be orthogonal, because
    # distances are measured on its grid.
    volume = read_volume(path, flat="keep", sheared="keep" if resample else "refuse")
    return Volume(on_grid(volume, truth, resample=resample), truth.affine, path)


def _binary(volume: Volume) -> npt.NDArray[np.bool_]:
    """Return a mask whose foreground is the only value other than 0."""
    array = volume.array
    mask: npt.NDArray[np.bool_] = array != 0
    top = array.max()
    if array.min() >= 0 and not (mask & (array != top)).any():
        return mask
    there = f"{volume.path}: contains {values_of(array)}"
    if array.min() < 0:
        raise InputError(
            f"{there}: a mask has no values below 0. Write it with 0 for the background and 1 for "
            "the mask, and check whether its header scales the values (scl_slope, scl_inter)."
        )
    if array.dtype.kind not in "iub" and not np.array_equal(array, np.round(array)):
        raise InputError(
            f"{there}: these are not whole numbers. Threshold it, for example at a probability of "
            "0.5."
        )
    raise InputError(f"{there}: that is more than one label. Score each: --labels.")
