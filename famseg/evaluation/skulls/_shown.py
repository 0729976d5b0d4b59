"""The cases shown by an evaluation, as volumes for the interactive view of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from famseg.files import fresh_part, read_json, write_json
from famseg.messages import InputError
from famseg.volumes import Volume, read_volume, write_volume

SHOWN = "shown"
# A voxel's value is the sum of the values of the masks that contain it.
SHOWN_INPUT, SHOWN_REFERENCE, SHOWN_PREDICTION = 1, 2, 4
_INDEX = "cases.json"
_ADVICE = "Evaluate the run again."

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ShownCase:
    """A case of an evaluation with its masks, of shape ``(X, Y, Z)``.

    Attributes:
        title: Set, rank, subject and metrics as text.
        image: The defective skull.
        reference: The complete skull.
        prediction: The completed skull.
        affine: Maps voxels to mm, ``(4, 4)``.
    """

    title: str
    image: Mask
    reference: Mask
    prediction: Mask
    affine: npt.NDArray[np.float64]


def write_shown(cases: Sequence[tuple[str, Volume]], folder: Path) -> None:
    """Write cases as NIfTI files with an index of their titles; about 20 KB each at 64^3.

    Args:
        cases: Titles and volumes, whose voxels are sums of 1 (the defective skull), 2 (the
            reference) and 4 (the prediction).
        folder: The evaluation's folder, in which ``shown`` is created.

    Raises:
        OSError: If they cannot be written.
    """
    place = folder / SHOWN
    place.mkdir(exist_ok=True)
    index = []
    for number, (title, volume) in enumerate(cases, start=1):
        path = place / f"{number}.nii.gz"
        with fresh_part(path, ".nii.gz") as part:
            write_volume(volume, part)
        index.append({"file": path.name, "title": title})
    write_json(place / _INDEX, {"cases": index})


def read_shown(folder: Path) -> list[ShownCase]:
    """Read the cases written by `write_shown`; empty if an evaluation shows none.

    Args:
        folder: The evaluation's folder.

    Raises:
        InputError: If a file cannot be read, or the index is invalid.
    """
    index = folder / SHOWN / _INDEX
    if not index.is_file():
        return []
    entries = read_json(index, _ADVICE).get("cases")
    cases = []
    for entry in entries if isinstance(entries, list) else [None]:
        name, title = (
            (entry.get("file"), entry.get("title")) if isinstance(entry, dict) else (None, None)
        )
        if not isinstance(name, str) or not isinstance(title, str) or Path(name).name != name:
            raise InputError(f"{index}: is not an index of cases. {_ADVICE}")
        volume = read_volume(index.with_name(name))
        bits = volume.array.astype(np.uint8)
        cases.append(
            ShownCase(
                title=title,
                image=(bits & SHOWN_INPUT) > 0,
                reference=(bits & SHOWN_REFERENCE) > 0,
                prediction=(bits & SHOWN_PREDICTION) > 0,
                affine=volume.affine,
            )
        )
    return cases
