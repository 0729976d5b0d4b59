"""What a machine has for trials: cores, memory within its container, GPUs."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
_NO_LIMIT = 1 << 60


def cores() -> int:
    """Return how many cores this process may use: affinity and the container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            return max(1, min(count or 1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return count or 1


def free_memory() -> int:
    """Return the bytes that are free, on the machine and within the container's limit."""
    free = psutil.virtual_memory().available
    for limit, used in _GROUPS:
        try:
            most = int(Path(limit).read_text())  # "max" is not a number
            if most < _NO_LIMIT:
                return min(free, max(0, most - int(Path(used).read_text())))
        except (OSError, ValueError):
            continue
    return free


def memory_of(pid: int) -> int:
    """Return the bytes that a process and those it started hold; 0 if it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    held = 0
    for each in family:
        try:
            held += each.memory_info().rss
        except psutil.Error:
            continue
    return held


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
