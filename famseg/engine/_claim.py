"""Choice and ownership of a run folder: a new one, or that of a run to resume."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from famseg.config import differences, read
from famseg.engine._config import FREE_ON_RESUME, RunConfig
from famseg.engine._processes import Processes
from famseg.engine._rank_zero import on_main
from famseg.messages import InputError
from famseg.runs import (
    Lease,
    RunFolder,
    claim_new_run,
    claim_run,
    lease,
    open_run_folder,
    remove_empty_runs,
    remove_leftovers,
    run_folders,
)

_logger = logging.getLogger(__name__)
# Largest number of differences in a folder's name, and their largest length.
_MOST, _LONGEST = 3, 24


@dataclass(frozen=True)
class Claim:
    """A run folder that this run owns.

    Attributes:
        folder: The folder.
        begun: Whether it contains a run that is resumed.
        lease: The lease on it; None except in rank 0.
    """

    folder: RunFolder
    begun: bool
    lease: Lease | None


@contextmanager
def claimed(
    config: RunConfig,
    processes: Processes,
    *,
    resume: bool | Path = False,
    into: Path | None = None,
) -> Iterator[Claim]:
    """Own a run folder within the context; every rank must call.

    An empty folder is removed at the end.

    Args:
        config: The configuration.
        processes: The ranks of the run.
        resume: Whether to resume the newest run of this name and configuration, which begins one if
            there is none; or the folder to resume.
        into: The run folder itself, whose run is started or resumed; None to choose by name.

    Raises:
        InputError: If another process owns the folder, it cannot be made, or the configuration
            differs in what a run cannot change. Nothing in the folder was changed then.
    """
    held: list[Lease] = []

    def claim() -> tuple[Path, bool]:
        folder, taken = _folder(config, resume) if into is None else claim_run(into)
        held.append(taken)
        begun = folder.config.is_file()
        if begun:
            _check_unchanged(folder, config)
        remove_leftovers(folder.path)
        if into is None and not isinstance(resume, Path):
            remove_empty_runs(Path(config.output), folder_name(config))
        return folder.path, begun

    try:
        path, begun = on_main(processes, claim)
        yield Claim(RunFolder(path), begun, held[0] if held else None)
    finally:
        for each in held:
            each.release()
            with suppress(OSError):  # a folder that is not empty
                each.folder.rmdir()


def folder_name(config: RunConfig) -> str:
    """Return the name of a run's folder, without the part that makes it unique."""
    return f"{config.name}-lambda{config.penalty.weight:g}{config.method}-seed{config.seed}"


def _folder(config: RunConfig, resume: bool | Path) -> tuple[RunFolder, Lease]:
    output, name = Path(config.output), folder_name(config)
    if isinstance(resume, Path):
        folder = open_run_folder(resume)
    else:
        found = _same_run(run_folders(output, name), config) if resume else None
        if found is None:
            return claim_new_run(output, name + _distinction(RunFolder(output / name), config))
        folder = found
    try:
        return folder, lease(folder.path, purpose="train")
    except OSError as error:
        raise InputError(
            f"{folder.path}: cannot be written to ({error.strerror}). Fix its permissions, or "
            "leave out --resume for a new run."
        ) from error


def _distinction(plain: RunFolder, config: RunConfig) -> str:
    """Return the part of a new run's name that states how it differs from an older run."""
    try:
        changed = _changed(plain, config)
    except InputError:  # of another version, or damaged; a number makes the name unique
        return ""
    parts = []
    for line in changed[:_MOST]:
        key, _, values = line.partition(": ")
        value = values.rpartition(" -> ")[2].strip("'\"").rstrip("/").rpartition("/")[2]
        word = re.sub(r"[^A-Za-z0-9._+]", "", f"{key.rpartition('.')[2]}{value}")
        parts.append(f"-{word[:_LONGEST]}")
    return "".join(parts)


def _same_run(folders: list[RunFolder], config: RunConfig) -> RunFolder | None:
    """Return the newest run with this configuration; log if all runs have different ones."""
    changed = {folder.path: _changed(folder, config) for folder in folders}
    for folder in folders:
        if not changed[folder.path]:
            return folder
    for path, lines in list(changed.items())[:1]:
        _logger.info(
            "%s has another configuration (%s); a new run starts. To resume that one: famseg train "
            "--resume %s",
            path,
            "; ".join(lines),
            shlex.quote(str(path)),
        )
    return None


def _changed(folder: RunFolder, config: RunConfig) -> list[str]:
    """Return the keys that differ from the run's configuration and cannot be changed."""
    if not folder.config.is_file():  # killed before it began, so it starts again
        return []
    old = read(str(folder.config)).validate(type(config))
    return [
        line
        for line in differences(old, config)
        if not line.startswith(FREE_ON_RESUME) and not _longer(line, config)
    ]


def _check_unchanged(folder: RunFolder, config: RunConfig) -> None:
    changed = _changed(folder, config)
    if changed:
        raise InputError(
            *(f"{folder.config}: {line}" for line in changed),
            f"{folder.path}: a run is resumed with the configuration it began with. Leave out "
            "these changes, or start a new run with --from (from its weights) or --config.",
        )


def _longer(difference: str, config: RunConfig) -> bool:
    # A cosine schedule and the start of an average over epochs depend on the number of epochs; a
    # constant rate does not.
    constant = config.schedule.kind == "constant" and config.training.swa is None
    return constant and difference.startswith("training.epochs")
