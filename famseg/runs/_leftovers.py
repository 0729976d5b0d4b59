"""Cleanup after killed processes: partial files and folders of runs that never started."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from famseg.files import is_part
from famseg.runs._lease import BusyError, Lease, lease, owner_of
from famseg.runs._lease_file import is_lease

PROVENANCE = "provenance.json"


def remove_leftovers(folder: Path) -> None:
    """Remove partial files in a run folder and below, without following links.

    Args:
        folder: The run folder, which this process owns, so that no other process is writing there.
    """
    for place, _, names in os.walk(folder):
        for name in filter(is_part, names):
            with suppress(OSError):
                Path(place, name).unlink()


def is_leftover(folder: Path) -> bool:
    """Return whether a folder contains only leases, partial files and a provenance.

    A run writes its configuration next, before anything that is worth keeping.
    """
    if folder.is_symlink():
        return False
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:  # missing, not a folder, or not readable
        return False
    return all(name == PROVENANCE or is_lease(name) or is_part(name) for name in names)


def claim_leftover(folder: Path, *, purpose: str) -> Lease | None:
    """Own the folder of a run that never began, and empty it.

    This waits for 15 s if its last owner was on another machine, but not for a living owner.

    Returns:
        The lease; None if the folder contains a run, is gone, or belongs to a living process.
    """
    if not is_leftover(folder) or owner_of(folder) is not None:
        return None
    try:
        taken = lease(folder, purpose=purpose)
    except (BusyError, FileNotFoundError):
        return None
    if not is_leftover(folder):  # a run has begun and ended since the check
        taken.release()
        return None
    remove_leftovers(folder)
    (folder / PROVENANCE).unlink(missing_ok=True)
    return taken


def remove_empty(folder: Path) -> None:
    """Remove the folder of a run that never began, if no living process owns it."""
    taken = claim_leftover(folder, purpose="clean")
    if taken is not None:
        taken.release()
        with suppress(OSError):
            folder.rmdir()
