"""What a container leaves a process of its machine: cores and memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from famseg.tracking._provenance import cores

_NO_LIMIT = 1 << 60  # a control group without a limit reports a number beyond all memory


def processor_quota() -> float | None:
    """Return how many cores a container may use, if its control group says so."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            return int(quota) / int(period)
    return None


def memory_limit() -> tuple[int, int] | None:
    """Return limit and use of a container's memory in bytes, of version 2 or 1 of the groups."""
    pairs = (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    )
    for limit, used in pairs:
        with contextlib.suppress(OSError, ValueError):  # "max" is not a number: no limit
            most = int(Path(limit).read_text())
            if most < _NO_LIMIT:
                return most, int(Path(used).read_text())
    return None


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity and the container's quota."""
    quota = processor_quota()
    return cores() if quota is None else max(1, min(cores(), round(quota)))


def free_memory() -> int:
    """Return the bytes that are free, on the machine and within the container's limit."""
    free, limit = psutil.virtual_memory().available, memory_limit()
    return free if limit is None else min(free, max(0, limit[0] - limit[1]))
