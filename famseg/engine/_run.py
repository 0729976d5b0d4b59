"""Run folders: where a run keeps all that is needed to use it again."""

from __future__ import annotations

import re
from pathlib import Path

from famseg.config import InputError


class RunFolder:
    """The files of one run.

    Args:
        path: The folder.

    Attributes:
        config: The resolved configuration.
        manifest: Subjects, files, hashes and splits.
        provenance: Commit, versions, device, seed, hashes of the data and of the first weights.
        tracking: Identity of the MLflow run.
        evaluation: Tables and pictures of the final evaluation.
        metrics: Its numbers by flat names, such as ``test/accuracy``.
        pictures: Pictures of the training.
        flatness: Relative flatness of the layers: tables and a plot.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "manifest.csv"
        self.provenance = path / "provenance.json"
        self.tracking = path / "tracking.json"
        self.evaluation = path / "evaluation"
        self.metrics = self.evaluation / "metrics.json"
        self.pictures = path / "pictures"
        self.flatness = path / "flatness"

    def checkpoint(self, which: str) -> Path:
        """Return the path of a checkpoint, ``best`` or ``last``."""
        return self.path / "checkpoints" / f"{which}.pt"


def new_run_folder(output: Path, name: str) -> RunFolder:
    """Make a run folder that was not there: ``name``, else ``name-2``, ``name-3`` and so on.

    Raises:
        InputError: If the folder cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = output / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return RunFolder(path)
    except OSError as error:
        raise InputError(
            f"output: {output}: no run folder can be made there ({error.strerror}). Choose another "
            "folder with output=FOLDER."
        ) from error


def newest_run_folder(output: Path, name: str) -> RunFolder | None:
    """Return the run folder of that name with the highest number, or None."""
    if not output.is_dir():
        return None
    pattern = re.compile(re.escape(name) + r"(?:-(\d+))?")
    found = [
        (int(match[1] or 1), path)
        for path in output.iterdir()
        if (match := pattern.fullmatch(path.name)) and (path / "config.yaml").is_file()
    ]
    return RunFolder(max(found)[1]) if found else None


def open_run_folder(path: Path) -> RunFolder:
    """Return an existing run's folder.

    Raises:
        InputError: If there is none.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise InputError(f"{path}: is no run folder (it has no config.yaml). Give one below runs/.")
    return folder
