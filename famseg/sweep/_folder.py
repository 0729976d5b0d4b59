"""The folder of a sweep: its axes, run folders, configurations and logs."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from famseg.files import read_json, write_atomically, write_json
from famseg.messages import InputError
from famseg.sweep._trials import Trial

RECORD = "sweep.json"
_ADVICE = "Restore it, or give another folder by --out."


@dataclass(frozen=True)
class SweepFolder:
    """The files of a sweep.

    Args:
        path: The folder.
        sweep_id: Tag of its runs in MLflow.
    """

    path: Path
    sweep_id: str

    @property
    def record(self) -> Path:
        """The file with the request of the sweep: ``sweep.json``."""
        return self.path / RECORD

    @property
    def trials(self) -> Path:
        """Folder of the run folders, which `famseg compare` reads."""
        return self.path / "trials"

    def run_folder(self, trial: Trial) -> Path:
        """Return the run folder of a trial."""
        return self.trials / trial.name

    def config(self, trial: Trial) -> Path:
        """Return the file of a trial's configuration."""
        return self.path / "configs" / f"{trial.name}.yaml"

    def log(self, trial: Trial) -> Path:
        """Return the log file of a trial, for all its sessions."""
        return self.path / "logs" / f"{trial.name}.log"

    def write_trials(self, trials: Sequence[Trial]) -> None:
        """Write the missing configurations, each atomically."""
        for name in ("trials", "configs", "logs"):
            (self.path / name).mkdir(exist_ok=True)
        for trial in trials:
            path = self.config(trial)
            if not path.is_file() or path.read_text() != trial.config:
                write_atomically(path, trial.config.encode())

    def note(self, request: Mapping[str, Any]) -> None:
        """Record a request; each only once."""
        content = read_json(self.record, _ADVICE) if self.record.is_file() else {}
        requests = content.get("requests", [])
        if request not in requests:
            write_json(self.record, {"sweep_id": self.sweep_id, "requests": [*requests, request]})


def open_sweep(path: Path) -> SweepFolder:
    """Return a sweep's folder, which is created if it does not exist.

    If two processes start simultaneously, one writes the record and the other reads it, so both get
    the same tag.

    Args:
        path: The folder.

    Raises:
        InputError: If it contains something else, or cannot be created.
    """
    found = find_sweep(path)
    if found is not None:
        return found
    try:
        if path.is_file():
            raise InputError(f"{path}: is a file. Give a folder by --out.")
        if path.exists() and not _is_new(path):
            raise InputError(f"{path}: is not empty and not a sweep. Give another folder by --out.")
        path.mkdir(parents=True, exist_ok=True)
        sweep_id = f"{path.resolve().name}-{secrets.token_hex(4)}"
        part = path / f".part-{secrets.token_hex(8)}"
        write_json(part, {"sweep_id": sweep_id, "requests": []})
        # Only one process can create the link, and its content is complete from the beginning.
        with suppress(FileExistsError):
            (path / RECORD).hardlink_to(part)
        part.unlink()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be made ({error.strerror}). Give another folder by --out."
        ) from error
    return find_sweep(path) or SweepFolder(path, sweep_id)


def find_sweep(path: Path) -> SweepFolder | None:
    """Return the sweep in a folder; None if there is none.

    Raises:
        InputError: If its record is damaged.
    """
    record = path / RECORD
    if not record.is_file():
        return None
    sweep_id = read_json(record, _ADVICE).get("sweep_id")
    if not isinstance(sweep_id, str) or not sweep_id:
        raise InputError(f"{record}: has no sweep_id. {_ADVICE}")
    return SweepFolder(path, sweep_id)


def _is_new(path: Path) -> bool:
    """Return whether a folder contains at most the remains of a killed start."""
    return path.is_dir() and all(
        each.name.startswith(".") or each.name == RECORD for each in path.iterdir()
    )
