"""The process that owns a run folder, with a check of whether it still exists."""

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

_GONE = frozenset("ZX")  # states of an ended process whose parent has not waited for it yet


@dataclass(frozen=True)
class Owner:
    """A process, identified uniquely across machines.

    Attributes:
        token: Random token of this ownership.
        pid: Number of the process in its namespace.
        started: Start of the process in ticks since the boot, since process numbers are reused.
        boot: Identifier of the boot of the machine.
        namespace: The namespace of process numbers, since a container has its own.
        host: Name of the machine or container.
        purpose: The name of its command.
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
        """Return the owner stated in a file; None if the file is not valid."""
        kinds = {"pid": int, "started": int | float}
        values = {field.name: content.get(field.name) for field in fields(cls)}
        for name, value in values.items():
            if not isinstance(value, kinds.get(name, str)) or isinstance(value, bool):
                return None
        return cls(**values) if 0 < values["pid"] < 2**31 else None  # type: ignore[arg-type, operator]

    def as_dict(self) -> dict[str, Any]:
        """Return the owner as JSON types."""
        return asdict(self)

    @property
    def near(self) -> bool:
        """Whether it has the same boot and namespace, so that its number is valid here."""
        return (self.boot, self.namespace) == (_boot(), _namespace())

    @property
    def exists(self) -> bool:
        """Whether the process exists; valid only if it is near."""
        began = _started(self.pid)
        return began is not None and 0.0 in (began - self.started, began, self.started)

    @property
    def where(self) -> str:
        """Text after its number in messages: the host of a process that is not near."""
        return "" if self.near else f" on {self.host}"

    def __str__(self) -> str:
        return f"process {self.pid}{self.where} ({self.purpose}, since {self.since})"


def _started(pid: int) -> float | None:
    """Return the start of a process; None if it does not exist, 0 if it is hidden."""
    try:
        # After the name, which may contain anything: the third and the following fields.
        after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if after[0] in _GONE else float(after[19])
    except (OSError, IndexError, ValueError):
        pass
    try:
        if not Path("/proc/self/stat").exists():
            return psutil.Process(pid).create_time()
        os.kill(pid, 0)  # /proc may hide processes of other users
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
