"""The state of a run, in a file of its folder: running, finished, failed or killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from famseg.files import read_json, write_json
from famseg.messages import InputError
from famseg.runs._lease import LostLeaseError, owner_of

NAME = "status.json"
RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"
KILLED = "killed"
TRAIN = "train"
"""The purpose of the lease during training."""


@contextmanager
def status_kept(folder: Path) -> Iterator[None]:
    """Write the state of a run when it starts and when it ends, also after an exception.

    A killed process leaves the entry of a running one, which `read_status` detects by its lease. If
    the disk is full, or another process has taken over the folder, the file is not changed.

    Args:
        folder: The run folder, which this process owns.
    """
    _write(folder, RUNNING)
    try:
        yield
    except LostLeaseError:
        raise  # the file belongs to the new owner
    except BaseException as error:
        lines = str(error).splitlines()
        # Signals are not subclasses of Exception.
        state = FAILED if isinstance(error, Exception) else INTERRUPTED
        _write(folder, state, lines[0] if lines else type(error).__name__)
        raise
    _write(folder, FINISHED)


def read_status(folder: Path) -> str | None:
    """Return the state of a run as text; None if there is no file.

    ``running`` or ``running on HOST``, ``finished``, ``interrupted (why)``, ``failed (why)``;
    ``killed`` if the process no longer exists, or its lease on another machine has long expired.

    Args:
        folder: The run folder.
    """
    try:
        content = read_json(folder / NAME, "")
    except InputError:
        return None
    if not isinstance(content.get("state"), str):
        return None
    state, reason = content["state"], content.get("reason")
    if state == RUNNING:
        owner = owner_of(folder)
        if owner is None or owner.purpose != TRAIN:
            return KILLED
        return RUNNING if owner.near else f"{RUNNING} on {owner.host}"
    return f"{state} ({reason})" if reason else state


def _write(folder: Path, state: str, reason: str | None = None) -> None:
    entry = {
        "state": state,
        "reason": reason,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with suppress(OSError):
        write_json(folder / NAME, entry)
