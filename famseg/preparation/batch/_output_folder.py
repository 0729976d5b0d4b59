"""Checks and locking of the output folder."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from famseg.files import open_to_update, read_json
from famseg.messages import InputError
from famseg.preparation.batch._record import Folder


def check_place(root: Path, out: Path) -> None:
    """Raise InputError unless prepared skulls may be written to ``out``.

    Args:
        root: The source: a folder or a file.
        out: A folder that is new or empty, or was written by an earlier run.
    """
    source, target = root.resolve(), out.resolve()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file: give a folder")
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise InputError(
            f"--out {out}: overlaps with the source {root}, whose files must not change: choose a "
            "folder outside it"
        )
    foreign = out.is_dir() and not Folder(out).state.exists()
    if foreign and any(not p.name.startswith(".") for p in out.iterdir()):
        raise InputError(
            f"--out {out}: is not empty and was not written by famseg prepare: choose a new folder"
        )


def check_settings(folder: Folder, settings: Mapping[str, object]) -> None:
    """Raise InputError if a folder holds skulls that were prepared with other settings."""
    if not folder.state.exists():
        return
    try:
        before = read_json(folder.state, "")["settings"]
        keys = sorted({**before, **settings})
    except (InputError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder.state}: is damaged: choose another folder, or prepare everything again with "
            "--force"
        ) from error
    now = json.loads(json.dumps(settings))  # tuples become lists, as they are when read from a file
    changes = [
        f"{key} {json.dumps(before.get(key))} (now {json.dumps(now.get(key))})"
        for key in keys
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise InputError(
            f"{folder.path}: was prepared with {', '.join(changes)}: give the same settings, "
            "choose another --out, or prepare everything again with --force"
        )


@contextmanager
def alone(folder: Folder) -> Iterator[None]:
    """Lock the folder against other runs, and remove temporary files of killed runs."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = open_to_update(folder.path / ".lock")
    except OSError as error:
        raise InputError(
            f"--out {folder.path}: cannot be written to ({error.strerror}): choose another folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"--out {folder.path}: another famseg prepare is running there: wait for it"
            ) from None
        for part in folder.path.rglob(".*.part"):
            part.unlink(missing_ok=True)
        yield
