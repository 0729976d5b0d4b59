"""Leases: exclusive ownership of run folders, also across machines with a shared disk.

A lease is the file ``lease-N.json`` in the folder. It is created by a hard link, which succeeds for
only one process, even on NFS, and makes the complete content visible at once. A process that finds
the lease of a dead owner does not modify it but creates the next number, so that again only one
process succeeds. It then checks again for a living owner, backs off if there is one, and removes
the files of dead owners only once it owns the folder. Two processes cannot both own it, because the
one that created its file later would have seen the other's file.
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
"""Seconds without a renewal after which an owner on another machine or in a container is dead."""

_TRIES = 50
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}

_logger = logging.getLogger("famseg")


class BusyError(InputError):
    """The run folder belongs to another living process."""


class LostLeaseError(RunError):
    """Another process took over the run folder, because this one did not renew its lease."""


class Lease:
    """The ownership of a run folder, created by `lease`, which ends with its context.

    Attributes:
        folder: The run folder.
        owner: This process.
        path: The file; None in a read-only folder.
    """

    def __init__(self, folder: Path, owner: Owner, path: Path | None) -> None:
        self.folder = folder
        self.owner = owner
        self.path = path
        self._ended = threading.Event()
        if path is not None:
            # A daemon thread does not keep the process alive.
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
        """Check that the folder still belongs to this process, before writing to it.

        Raises:
            LostLeaseError: If another process has taken it over, for example while this one was
                suspended.
        """
        if self.path is None or not self.folder.is_dir():  # a disk that is temporarily unavailable
            return
        try:
            found = look(self.path)
        except InputError:  # it exists but cannot be read
            return
        if found is None or found.owner != self.owner:
            raise LostLeaseError(
                f"{self.folder}: was taken over by another process, because this one did not renew "
                f"its lease for {SILENT_S:.0f} s. This process writes nothing more to it."
            )

    def release(self) -> None:
        """Release the folder; a second call has no effect."""
        # A forked child has a copy of this object, but does not own the lease.
        if self._ended.is_set() or self.owner.pid != os.getpid():
            return
        self._ended.set()
        if self.path is None:
            return
        with suppress(OSError, InputError):  # if the disk is gone, the lease will expire
            found = look(self.path)
            if found is not None and found.owner == self.owner:
                self.path.unlink()

    def _beat(self) -> None:
        while self.path is not None and not self._ended.wait(HEARTBEAT_S):
            # The file server sets its own time. An unavailable disk may come back.
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
    """Return the living owner of a folder, without writing or waiting.

    An owner on another machine or in another container is alive if its last renewal is at most 60 s
    old by the clock of this machine: this suffices for messages, but not for taking over a folder.

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
    """Return whether the last owner of a folder was killed, that is, did not release it.

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
        time.sleep(random.uniform(0.0, 0.01 * 2 ** min(attempt, 5)))  # noqa: S311 - not for cryptography
    raise BusyError(f"{folder}: too many processes try to use it at once. Start only one.")


def _require_dead(found: LeaseFile, folder: Path, dead: set[str]) -> None:
    """Record that the owner of a lease is dead.

    Raises:
        BusyError: If it is alive.
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
    """Watch the lease of another machine until it is renewed or has expired."""
    began, said = time.monotonic(), False
    while True:
        now = look(found.path)
        if now is None or now.key != found.key:
            return True  # released or replaced, which the next check handles
        if now.beat != found.beat:
            return False
        watched = time.monotonic() - began
        silent = watched
        with suppress(OSError):  # a read-only folder
            silent = max(watched, time_of(found.path.parent) - found.beat)
        # A machine that was suspended also looks expired, so it gets time to renew its lease.
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
