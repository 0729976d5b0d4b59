"""The process that owns a run folder, and whether it still exists."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

_GONE = frozenset("ZX")  # states of a process that has ended and is not yet waited for


@dataclass(frozen=True)
class Owner:
    """A process, told apart from all others of all machines.

    Attributes:
        token: Drawn for this ownership.
        pid: Number of the process in its namespace.
        started: When the process began, in ticks since the boot: numbers are given anew.
        boot: The boot of the machine.
        namespace: The namespace of process numbers: a container has its own.
        host: Name of the machine or container.
        purpose: The name of the command that it runs.
        since: When it began to own the folder, ISO 8601 in UTC.
    """

    token: str
    pid: int
    started: float
    boot: str
    namespace: str
    host: str
    purpose: str
    since: str

    @classmethod
    def this_process(cls, purpose: str) -> Owner:
        """Return this process, with a new token."""
        pid = os.getpid()
        return cls(
            token=secrets.token_hex(8),
            pid=pid,
            started=_started(pid) or 0.0,
            boot=_boot(),
            namespace=_namespace(),
            host=socket.gethostname(),
            purpose=purpose,
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Owner | None:
        """Return what a file says; None if it is none of ours."""
        kinds = {"pid": int, "started": int | float}
        values = {field.name: content.get(field.name) for field in fields(cls)}
        for name, value in values.items():
            if not isinstance(value, kinds.get(name, str)) or isinstance(value, bool):
                return None
        return cls(**values) if 0 < values["pid"] < 2**31 else None  # type: ignore[arg-type, operator]

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    @property
    def near(self) -> bool:
        """Whether it is of this boot and namespace, so that its number means something here."""
        return (self.boot, self.namespace) == (_boot(), _namespace())

    @property
    def exists(self) -> bool:
        """Whether the process exists; of one that is not near nothing can be said."""
        began = _started(self.pid)
        return began is not None and 0.0 in (began - self.started, began, self.started)

    @property
    def where(self) -> str:
        """Words that follow its number: the host of a process that is not near."""
        return "" if self.near else f" on {self.host}"

    def __str__(self) -> str:
        return f"process {self.pid}{self.where} ({self.purpose}, since {self.since})"


def _started(pid: int) -> float | None:
    """Return when a process began; None if there is none, 0 if that is hidden."""
    try:
        # Behind the name, which may hold anything: the third field and what follows.
        after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if after[0] in _GONE else float(after[19])
    except (OSError, IndexError, ValueError):
        pass
    try:
        if not Path("/proc/self/stat").exists():
            return psutil.Process(pid).create_time()
        os.kill(pid, 0)  # /proc may hide the processes of other users
    except (psutil.NoSuchProcess, ProcessLookupError, OverflowError):
        return None
    except (psutil.Error, OSError):
        pass
    return 0.0


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
