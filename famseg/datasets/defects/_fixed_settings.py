"""Settings and output folder of a fixed set of defects."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from famseg.datasets._manifest import SkullSubject
from famseg.datasets.defects._fixed_sets import TABLE_NAME, FixedCase, read_table
from famseg.datasets.defects._opening import OPENING_VERSION
from famseg.datasets.defects._region import WHERES, Pair, RegionDefect, Spread, Where
from famseg.files import read_json, write_atomically
from famseg.messages import InputError

SETTINGS_NAME = "defects.json"
_FILE_NAME = re.compile(r"[^\W.][\w.+-]*")


@dataclass(frozen=True)
class Settings:
    """The settings of a fixed set; see `write_fixed_set`."""

    classes: tuple[Where, ...]
    seed: int
    per_subject: int
    area_cm2: Pair | None
    spread: Spread
    roughness_mm: float

    def defect(self, where: Where) -> RegionDefect:
        """Return the generator of a class."""
        return RegionDefect(where, self.area_cm2, self.spread, self.roughness_mm)

    def content(self) -> dict[str, object]:
        """Return the settings that must be equal to continue a set, in JSON types."""
        area = None if self.area_cm2 is None else list(self.area_cm2)
        return vars(self) | {
            "classes": list(self.classes),
            "area_cm2": area,
            "version": OPENING_VERSION,
        }


def check_settings(settings: Settings, subjects: Sequence[SkullSubject]) -> None:
    """Raise InputError for all settings that are out of range."""
    faults = []
    if not settings.classes or not set(settings.classes) <= set(WHERES):
        given = ", ".join(settings.classes) or "none"
        faults.append(f"classes: {given}: choose from {', '.join(WHERES)}")
    elif len(set(settings.classes)) < len(settings.classes):
        faults.append(f"classes: {', '.join(settings.classes)}: name each once")
    if settings.seed < 0 or settings.per_subject < 1:
        faults.append(
            f"seed {settings.seed} must be 0 or more, per_subject {settings.per_subject} 1 or more"
        )
    faults += [
        f"subject {subject.id!r}: is not a file name: use only letters, digits and . _ + -"
        for subject in subjects
        if not _FILE_NAME.fullmatch(subject.id)
    ]
    if faults:
        raise InputError(*faults)
    settings.defect(settings.classes[0])  # checks area and roughness


def open_set(root: Path, settings: Settings) -> Sequence[FixedCase]:
    """Create the folder, or open the set in it; return the existing rows."""
    path = root / SETTINGS_NAME
    wanted = settings.content()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            found = read_json(path, "Choose another folder")
            other = [name for name in wanted if found.get(name) != wanted[name]]
            if other:
                raise InputError(
                    f"{root}: contains a set that was made with other settings "
                    f"({', '.join(other)}; see {SETTINGS_NAME}): choose another folder"
                )
            return read_table(root / TABLE_NAME).cases if (root / TABLE_NAME).is_file() else ()
        if (root / TABLE_NAME).exists():
            raise InputError(f"{path}: is missing beside {TABLE_NAME}: choose another folder")
        write_atomically(path, (json.dumps(wanted, indent=2) + "\n").encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be read or written ({error})") from error
    return ()
