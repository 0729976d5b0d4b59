"""Run folders, with the files needed to use a run again."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from famseg.files import read_json, write_json
from famseg.messages import InputError
from famseg.runs._lease import Lease, lease
from famseg.runs._leftovers import (
    PROVENANCE,
    claim_leftover,
    is_leftover,
    remove_empty,
    remove_leftovers,
)


class RunFolder:
    """The files of one run.

    Args:
        path: The folder.

    Attributes:
        config: The resolved configuration.
        manifest: Subjects, files, hashes and splits.
        provenance: Commit, versions, device, seed, hashes of the data and of the initial weights.
        tracking: Identity of the MLflow run, and whether MLflow has all of it.
        evaluation: Tables and images of the final evaluation.
        metrics: Its numbers by flat names, such as ``test/accuracy``.
        images: Images of the training.
        flatness: Relative flatness of the layers: tables and a plot.
        checkpoints: The checkpoints.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "manifest.csv"
        self.provenance = path / PROVENANCE
        self.tracking = path / "tracking.json"
        self.evaluation = path / "evaluation"
        self.metrics = self.evaluation / "metrics.json"
        self.images = path / "pictures"
        self.flatness = path / "flatness"
        self.checkpoints = path / "checkpoints"

    def checkpoint(self, which: str) -> Path:
        """Return the path of a checkpoint, ``best`` or ``last``."""
        return self.checkpoints / f"{which}.pt"

    def is_sent(self) -> bool:
        """Return whether MLflow has the whole run, as far as the folder knows.

        False if the store was away or full when the run ended; running it again sends the rest.
        True for a run that is not tracked, and for one of an earlier version.
        """
        try:
            content = read_json(self.tracking, "")
        except InputError:
            return True
        return content.get("complete") is not False

    def note_sent(self, complete: bool) -> None:
        """Note whether MLflow has the whole run; without effect if the run is not tracked."""
        with suppress(InputError, OSError):  # if the disk is full, the old note stays
            write_json(self.tracking, read_json(self.tracking, "") | {"complete": complete})

    def evaluation_of(self, which: str) -> Path:
        """Return the folder of a checkpoint's evaluation; that of ``best`` is the run's result."""
        return self.evaluation if which == "best" else self.path / f"evaluation-{which}"


def claim_new_run(output: Path, name: str, *, purpose: str = "train") -> tuple[RunFolder, Lease]:
    """Create and own a new run folder: ``name``, else ``name-2`` and so on.

    A folder without a configuration, from a run that was killed before it began, is reused before
    the next number.

    Args:
        output: The folder of the run folders, which is created if it does not exist.
        name: Name of the run folder.
        purpose: The purpose of the lease, see `lease`.

    Raises:
        InputError: If the folder cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = output / (name if number == 1 else f"{name}-{number}")
            made = _made(path)
            try:
                taken = claim_leftover(path, purpose=purpose)
            except PermissionError:
                if made:
                    raise
                taken = None  # belongs to another user
            if taken is not None:
                return RunFolder(path), taken
            # Otherwise another process removed it just before it was owned.
            number += path.exists() or path.is_symlink()
    except OSError as error:
        raise InputError(
            f"output: {output}: no run folder can be made there ({error.strerror}). Choose another "
            "folder with output=FOLDER."
        ) from error


def claim_run(path: Path, *, purpose: str = "train") -> tuple[RunFolder, Lease]:
    """Own the run folder at a path, which is created if it does not exist.

    If two processes request the same folder simultaneously, they get it in succession, so that a
    run with a fixed folder is never started twice.

    Args:
        path: The run folder, empty or with a run in it.
        purpose: The purpose of the lease, see `lease`.

    Raises:
        BusyError: If another process owns the folder.
        InputError: If the folder cannot be created, or contains something else.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = lease(path, purpose=purpose)
    except OSError as error:
        raise InputError(
            f"{path}: no run folder can be made there ({error.strerror}). Choose another folder."
        ) from error
    folder = RunFolder(path)
    if not folder.config.is_file():
        if not is_leftover(path):
            taken.release()
            raise InputError(f"{path}: is not empty and not a run folder. Choose another folder.")
        remove_leftovers(path)
        folder.provenance.unlink(missing_ok=True)
    return folder, taken


def run_folders(output: Path, name: str) -> list[RunFolder]:
    """Return the run folders with a name, the highest number first.

    This includes folders whose names state differences, such as ``NAME-epochs6`` and
    ``NAME-epochs6-2``, and runs that were killed before they began.
    """
    found = _numbered(output, name)
    begun = [each for each in found if (each[1] / "config.yaml").is_file() or is_leftover(each[1])]
    return [RunFolder(path) for _, path in sorted(begun, reverse=True)]


def remove_empty_runs(output: Path, name: str) -> None:
    """Remove folders with a name whose runs were killed before they began, if permitted."""
    for _, path in _numbered(output, name):
        if is_leftover(path):
            with suppress(OSError, InputError):
                remove_empty(path)


def _made(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _numbered(output: Path, name: str) -> list[tuple[int, Path]]:
    """Return the folders with the name of a run, with their numbers."""
    if not output.is_dir():
        return []
    pattern = re.compile(re.escape(name) + r"(?:-[A-Za-z][\w.+]*)*(?:-([1-9]\d{0,8}))?")
    return [
        (int(match[1] or 1), path)
        for path in output.iterdir()
        if (match := pattern.fullmatch(path.name)) and path.is_dir()
    ]


def open_run_folder(path: Path) -> RunFolder:
    """Return an existing run's folder.

    Raises:
        InputError: If there is none.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise InputError(
            f"{path}: is not a run folder (it has no config.yaml). Give one below runs/."
        )
    return folder
