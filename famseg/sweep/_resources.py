"""The memory used by trials, and the GPUs of the machine."""

from __future__ import annotations

import os

import psutil


def memory_of(pid: int) -> int:
    """Return the memory in bytes of a process and its children; 0 if it no longer exists."""
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
    """Return the GPUs that this process may use, in the form of ``CUDA_VISIBLE_DEVICES``."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
