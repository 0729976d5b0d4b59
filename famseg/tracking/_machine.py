"""Cores and memory that a container allows a process to use."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from famseg.tracking._provenance import cores

_NO_LIMIT = 1 << 60  # a control group without a limit reports a huge number


def processor_quota() -> float | None:
    """Return the number of cores that a container may use, if its control group limits them."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            return int(quota) / int(period)
    return None


def memory_limit() -> tuple[int, int] | None:
    """Return limit and usage of a container's memory in bytes, for cgroups version 2 or 1."""
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
    """Return the number of cores this process may use, by affinity and the container's quota."""
    quota = processor_quota()
    return cores() if quota is None else max(1, min(cores(), round(quota)))


def free_memory() -> int:
    """Return the free memory in bytes on the machine and within the container's limit."""
    free, limit = psutil.virtual_memory().available, memory_limit()
    return free if limit is None else min(free, max(0, limit[0] - limit[1]))
