"""One owner for each run folder: a lease, also among machines that share a disk.

A lease is the file ``lease-N.json`` in the folder. It is made by a hard link, which succeeds for
only one process, on NFS too, and has its full content from the first moment. A process that finds a
lease of a dead owner does not change it but creates the next number, so that again only one process
succeeds; then it looks once more for a living owner, steps back if there is one, and removes the
files of the dead only when it owns the folder. Of two processes that both believe to own it the
one that made its file later would have seen the other's.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from famseg.messages import InputError, RunError
from famseg.runs._lease_file import LeaseFile, create, leases, look, time_of
from famseg.runs._owner import Owner

HEARTBEAT_S = 10.0
"""Seconds between two renewals of a lease."""
SILENT_S = 60.0
"""An owner elsewhere (another machine or container) counts as dead after so long without one."""

_TRIES = 50
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}

_logger = logging.getLogger("famseg")


class BusyError(InputError):
    """The run folder belongs to another process, which lives."""


class LostLeaseError(RunError):
    """Another process has taken over the run folder, because this one did not renew its lease."""


class Lease:
    """The ownership of a run folder; see `lease`, which makes it. Ends with its context.

    Attributes:
        folder: The run folder.
        owner: This process.
        path: The file; None in a folder that cannot be written to.
    """

    def __init__(self, folder: Path, owner: Owner, path: Path | None) -> None:
        self.folder = folder
        self.owner = owner
        self.path = path
        self._ended = threading.Event()
        if path is not None:
            # A daemon: it ends with the process, and does not keep it.
            threading.Thread(target=self._beat, name="famseg-lease", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def check(self) -> None:
        """Make sure that the folder still belongs to this process, before writing to it.

        Raises:
            LostLeaseError: If another process has taken it over, as after a suspended night.
        """
        if self.path is None or not self.folder.is_dir():  # a disk that is away for a while
            return
        try:
            found = look(self.path)
        except InputError:  # it is there and cannot be read
            return
        if found is None or found.owner != self.owner:
            raise LostLeaseError(
                f"{self.folder}: was taken over by another process, because this one did not renew "
                f"its lease for {SILENT_S:.0f} s. This process writes nothing more to it."
            )

    def release(self) -> None:
        """Give the folder back; a second time does nothing."""
        # A forked child has a copy of this object, and not the lease.
        if self._ended.is_set() or self.owner.pid != os.getpid():
            return
        self._ended.set()
        if self.path is None:
            return
        with suppress(OSError, InputError):  # a disk that is gone: others see that we are, too
            found = look(self.path)
            if found is not None and found.owner == self.owner:
                self.path.unlink()

    def _beat(self) -> None:
        while self.path is not None and not self._ended.wait(HEARTBEAT_S):
            # The server sets its own time. A disk that is away may come back.
            with suppress(OSError):
                os.utime(self.path, follow_symlinks=False)


def lease(folder: Path, *, purpose: str = "use", read_only: bool = False) -> Lease:
    """Take the ownership of a run folder, until the context ends: by return, exception or signal.

    The lease of a dead process is taken over: on this machine, and in the same container, one that
    no longer exists; on another machine or in another container, one whose last renewal is older
    than 60 s,
    by the clock of the file system, while it is watched. An owner that lives there is found out
    within 15 s.

    Args:
        folder: An existing folder.
        purpose: The name of the command, which other processes see.
        read_only: Whether a folder that cannot be written to may be used without a lease.

    Returns:
        The lease, a context manager.

    Raises:
        BusyError: If another process owns the folder, which may be this process elsewhere.
        InputError: If a link or something else than a file lies in the way.
        OSError: If the folder is missing or, without ``read_only``, cannot be written to.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with lease(folder, purpose="train"):
        ...     lease(folder)
        Traceback (most recent call last):
        famseg.runs._lease.BusyError: ...: is in use by process ... (train, since ...). Wait ...
        >>> list(folder.iterdir())
        []
    """
    owner = Owner.this_process(purpose)
    try:
        return Lease(folder, owner, _acquire(folder, owner))
    except OSError as error:
        if read_only and error.errno in _READ_ONLY:
            return Lease(folder, owner, None)
        raise


def owner_of(folder: Path) -> Owner | None:
    """Return the living owner of a folder; writes nothing and does not wait.

    An owner on another machine or in another container is alive if its last renewal is at most 60 s
    old by the clock of this machine: good enough to tell people, but not to take over a folder.

    Args:
        folder: A run folder.
    """
    try:
        found = leases(folder)
    except (OSError, InputError):
        return None
    for each in found:
        if each.owner is not None and (
            each.owner.exists if each.near else time.time() - each.beat <= SILENT_S
        ):
            return each.owner
    return None


def was_killed(folder: Path) -> bool:
    """Return whether the last owner of a folder ended without giving it back: it was killed.

    Args:
        folder: A run folder.
    """
    try:
        return bool(leases(folder)) and owner_of(folder) is None
    except (OSError, InputError):
        return False


def _acquire(folder: Path, owner: Owner) -> Path:
    """Return the file of a new lease."""
    dead: set[str] = set()
    for attempt in range(_TRIES):
        found = leases(folder)
        for each in found:
            _require_dead(each, folder, dead)
        path = create(folder, max([0, *(each.number for each in found)]) + 1, owner)
        if path is None:
            continue  # another process was faster
        others = [each for each in leases(folder) if each.path != path]
        if all(each.key in dead or each.gone for each in others):
            for each in others:
                each.path.unlink(missing_ok=True)
            return path
        path.unlink(missing_ok=True)
        time.sleep(random.uniform(0.0, 0.01 * 2 ** min(attempt, 5)))  # noqa: S311 - no secret
    raise BusyError(f"{folder}: too many processes try to use it at once. Start only one.")


def _require_dead(found: LeaseFile, folder: Path, dead: set[str]) -> None:
    """Note that the owner of a lease is dead.

    Raises:
        BusyError: If it lives.
    """
    if found.key in dead or (found.gone if found.near else _stays_silent(found)):
        dead.add(found.key)
        return
    owner = found.owner
    if owner is None:
        raise BusyError(f"{folder}: is in use by another process. Wait until it ends, or end it.")
    raise BusyError(
        f"{folder}: is in use by process {owner.pid}{owner.where} ({owner.purpose}, since "
        f"{owner.since}). Wait until it ends, or end it."
    )


def _stays_silent(found: LeaseFile) -> bool:
    """Watch a lease of another machine until it is renewed or has been silent for long enough."""
    began, said = time.monotonic(), False
    while True:
        now = look(found.path)
        if now is None or now.key != found.key:
            return True  # released, or another's: the next look tells
        if now.beat != found.beat:
            return False
        watched = time.monotonic() - began
        silent = watched
        with suppress(OSError):  # a folder that cannot be written to
            silent = max(watched, time_of(found.path.parent) - found.beat)
        # By the clock a machine that slept a while ago is silent, too: it gets time to wake.
        if silent >= SILENT_S and watched >= 1.5 * HEARTBEAT_S:
            return True
        if not said:
            _logger.warning(
                "%s: was used by %s, which may still be running: waiting up to %.0f s to find out.",
                found.path.parent,
                found.owner or "another process",
                SILENT_S,
            )
            said = True
        time.sleep(min(0.5, HEARTBEAT_S / 4))
