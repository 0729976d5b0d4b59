"""Where a command computes, in words."""

from __future__ import annotations

import logging

import torch

from famseg.config._counted import counted
from famseg.tracking import cpu_name

_logger = logging.getLogger(__name__)


def say_device(device: torch.device) -> None:
    """Log where a command computes: what of, and for a CPU how many threads.

    Example:
        >>> say_device(torch.device("cpu"))
    """
    _logger.info("%s", describe_device(device))


def describe_device(device: torch.device) -> str:
    """Return a device in words.

    Example:
        >>> describe_device(torch.device("cpu")).startswith("device: cpu (")
        True
    """
    if device.type == "cuda":
        return f"device: {device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = counted(torch.get_num_threads(), "thread")
        return f"device: cpu ({cpu_name()}, {threads})"
    return f"device: {device}"
