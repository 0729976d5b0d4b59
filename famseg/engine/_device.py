"""Description of the device on which a command computes."""

from __future__ import annotations

import logging

import torch

from famseg.config import check
from famseg.engine._config import TrainingConfig
from famseg.engine._memory import keep_freed_memory
from famseg.engine._processes import Processes
from famseg.messages import InputError, counted
from famseg.tracking import cpu_name

_logger = logging.getLogger(__name__)


def place_of(device: str, threads: str | None, processes: Processes) -> torch.device:
    """Return the device of a command without a configuration, set the threads, and log it.

    Args:
        device: As ``training.device``.
        threads: As ``training.threads``, in the form typed by the user; None for torch's default.
        processes: The ranks of the command.

    Raises:
        InputError: If there is no such device, or threads is not a positive number.
    """
    number = int(threads) if threads is not None and threads.isdecimal() else threads
    values = {"epochs": 1, "device": device, "threads": number}
    training, faults = check(values, TrainingConfig)
    if training is None:
        raise InputError(*(f"training.{'.'.join(map(str, key))}: {text}" for key, text in faults))
    keep_freed_memory()
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    place = training.choose_device(processes)
    say_device(place)
    return place


def say_device(device: torch.device) -> None:
    """Log the device of a command; for a CPU with the number of threads.

    Example:
        >>> say_device(torch.device("cpu"))
    """
    _logger.info("%s", describe_device(device))


def describe_device(device: torch.device) -> str:
    """Return a description of a device.

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
