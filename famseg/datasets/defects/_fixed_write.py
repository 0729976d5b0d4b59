"""Writing of fixed sets of defects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from famseg.datasets._manifest import SkullSubject, file_sha256
from famseg.datasets.defects._fixed_sets import TABLE_NAME, FixedCase, file_fault, table_bytes
from famseg.datasets.defects._fixed_settings import Settings, check_settings, open_set
from famseg.datasets.defects._opening import open_region
from famseg.datasets.defects._region import WHERES, Pair, Spread, Where
from famseg.files import fresh_part, write_atomically
from famseg.messages import InputError
from famseg.volumes import Volume, write_volume

if TYPE_CHECKING:
    from monai.transforms import Compose

Progress = Callable[[int, int], None]


class Failure(NamedTuple):
    """A defect, or all defects of a subject, that could not be created."""

    subject: str
    where: str
    reason: str


@dataclass(frozen=True)
class FixedSetReport:
    """The result of writing a set.

    Args:
        root: The folder.
        cases: All defects of the set.
        kept: Number of defects that existed already.
        failed: Defects that could not be created, with the reason.
        sha256: Hash of the table, which names the set.
    """

    root: Path
    cases: tuple[FixedCase, ...]
    kept: int
    failed: tuple[Failure, ...]
    sha256: str


# Many parameters: the settings of a set, each documented only here.
def write_fixed_set(
    subjects: Sequence[SkullSubject],
    root: Path,
    *,
    classes: Sequence[Where] = WHERES,
    seed: int = 0,
    per_subject: int = 1,
    area_cm2: Pair | None = None,
    spread: Spread = "uniform",
    roughness_mm: float = 1.0,
    progress: Progress | None = None,
) -> FixedSetReport:
    """Cut defects of every class into every skull and write them, with a table of hashes.

    The folder gets ``complete/SUBJECT.nii.gz``, and ``defective``, ``implant`` and ``region`` with
    ``CLASS/SUBJECT.nii.gz`` (``SUBJECT-N`` with several defects of a class), ``defects.csv`` with
    one row per defect, and ``defects.json`` with the settings. Volumes keep the spacing of their
    source and are turned to right-anterior-superior axes. A defect is a pure function of skull,
    settings, class, number and subject: the same call writes the same bytes.

    The same call resumes an interrupted one: unchanged files from unchanged sources are kept.

    Args:
        subjects: Complete skulls, as `scan_folder` finds them.
        root: The folder to write to; created if it is missing.
        classes: Classes to cut.
        seed: Random seed of the defects.
        per_subject: Defects per class and subject.
        area_cm2: As in `RegionDefect`.
        spread: As in `RegionDefect`.
        roughness_mm: As in `RegionDefect`.
        progress: Called with the number of finished subjects and their total.

    Returns:
        The written defects and the failures, which do not stop the rest.

    Raises:
        InputError: If an argument is out of range, the folder cannot be written to, or it contains
            a set that was made with other settings.
    """
    settings = Settings(tuple(classes), seed, per_subject, area_cm2, spread, roughness_mm)
    check_settings(settings, subjects)
    writer = _Writer(root, settings, open_set(root, settings))
    for done, subject in enumerate(subjects, start=1):
        writer.add(subject)
        if progress is not None:
            progress(done, len(subjects))
    content = table_bytes(writer.cases)
    write_atomically(root / TABLE_NAME, content)
    return FixedSetReport(
        root,
        tuple(writer.cases),
        writer.kept,
        tuple(writer.failed),
        hashlib.sha256(content).hexdigest(),
    )


class _Writer:
    """Writes the files and the table of a set.

    Args:
        root: Its folder.
        settings: Its settings.
        known: Rows of an earlier call.
    """

    def __init__(self, root: Path, settings: Settings, known: Sequence[FixedCase]) -> None:
        self.root, self.settings = root, settings
        self.known = {case.key: case for case in known}
        self.cases: list[FixedCase] = []
        self.failed: list[Failure] = []
        self.kept = 0

    def add(self, subject: SkullSubject) -> None:
        """Write the defects of a subject; existing ones are kept."""
        skull: Volume | None = None
        complete = f"complete/{subject.id}.nii.gz"
        for where in self.settings.classes:
            for number in range(1, self.settings.per_subject + 1):
                case = self.known.get((subject.id, where, number))
                if case is not None and self._unchanged(case, subject):
                    self.cases.append(case)
                    self.kept += 1
                    continue
                try:
                    if skull is None:
                        skull = load_skull(subject)
                        self._save(skull.array, skull, complete)
                    self.cases.append(self._write(subject, skull, where, number))
                except InputError as error:
                    if skull is None:  # unreadable, so no class can be cut
                        self.failed.append(Failure(subject.id, "", str(error.faults[0])))
                        return
                    self.failed.append(Failure(subject.id, where, str(error.faults[0])))
        self._save_table()

    def _unchanged(self, case: FixedCase, subject: SkullSubject) -> bool:
        return case.source_sha256 == subject.sha256 and not any(
            file_fault(self.root / name, digest) for name, digest in case.files().items()
        )

    def _write(self, subject: SkullSubject, skull: Volume, where: Where, number: int) -> FixedCase:
        mask, spacing = skull.array, skull.spacing_mm
        seed = hole_seed(self.settings.seed, where, number, subject.id)
        opening = open_region(
            mask, self.settings.defect(where), np.asarray(spacing), np.random.default_rng(seed)
        )
        region = opening.region
        file = subject.id if self.settings.per_subject == 1 else f"{subject.id}-{number}"
        names = {"complete": f"complete/{subject.id}.nii.gz"}
        implant = mask * region
        for role, array in (
            ("defective", mask * ~region),
            ("implant", implant),
            ("region", region),
        ):
            names[role] = f"{role}/{where}/{file}.nii.gz"
            self._save(array, skull, names[role])
        hashes = {f"{role}_sha256": file_sha256(self.root / name) for role, name in names.items()}
        return FixedCase(
            subject=subject.id,
            where=where,
            number=number,
            seed=seed,
            area_target_cm2=round(opening.target_cm2, 3),
            area_cm2=round(opening.area_cm2, 3),
            volume_ml=round(int(implant.sum()) * float(np.prod(spacing)) / 1000, 3),
            source_sha256=subject.sha256,
            **names,
            **hashes,
        )

    def _save(self, array: NDArray[np.generic], skull: Volume, name: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh_part(path, ending=".nii.gz") as part:
            write_volume(Volume(array, skull.affine), part)

    def _save_table(self) -> None:
        """Write the current table; rows of an earlier call are kept until they are replaced."""
        done = {case.key for case in self.cases}
        rest = [case for key, case in self.known.items() if key not in done]
        write_atomically(self.root / TABLE_NAME, table_bytes([*self.cases, *rest]))


def hole_seed(seed: int, where: str, number: int, subject: str) -> int:
    """Return the seed of one defect of a set, below 2^48.

    Example:
        >>> hole_seed(0, "bilateral", 1, "head7") == hole_seed(0, "bilateral", 2, "head7")
        False
    """
    text = f"{seed}\0{where}\0{number}\0{subject}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def load_skull(subject: SkullSubject) -> Volume:
    """Return a complete skull as 0 and 1 (uint8) on its own grid, turned to RAS+ axes.

    Raises:
        InputError: If the file cannot be used.
    """
    from famseg.datasets.skulls import prepare_file

    if subject.file is None:
        raise InputError(f"{subject.id}: has no file")
    return Volume(*prepare_file(subject.file, _transform()))


@cache
def _transform() -> Compose:
    # Imported here because MONAI takes seconds to import.
    from monai.transforms import Compose, EnsureChannelFirstd, Orientationd

    from famseg.datasets.skulls import BinarizeBoned, LoadVolumed

    return Compose(
        [
            LoadVolumed("image"),
            EnsureChannelFirstd("image"),
            BinarizeBoned("image"),
            Orientationd("image", axcodes="RAS", labels=None),
        ]
    )
