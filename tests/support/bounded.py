"""What a refusal costs: memory and time of a call in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from famseg.messages import InputError

LONGEST_S = 30.0
"""A call that lasts longer is ended and counts as one that hangs."""


@dataclass(frozen=True)
class Cost:
    """What became of a call.

    Args:
        fault: The message of InputError; None if it returned.
        mib: Memory that it took beyond what the process had before, at its peak.
        seconds: Processor time.
    """

    fault: str | None
    mib: float
    seconds: float


def cost(call: Callable[[], object]) -> Cost:
    """Return what a call costs; it fails the test if it hangs, crashes or raises anything else."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(call, sender))
    process.start()
    sender.close()
    try:
        assert receiver.poll(LONGEST_S), f"still at work after {LONGEST_S:.0f} s"
        found = receiver.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"the process ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    assert isinstance(found, Cost), found
    return found


def _measure(call: Callable[[], object], sender: Connection) -> None:
    before, began = _resident_mib(), time.process_time()
    fault = None
    try:
        call()
    except InputError as error:
        fault = str(error)
    except BaseException as error:
        sender.send(f"{type(error).__name__}: {error}")
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sender.send(Cost(fault, peak - before, time.process_time() - began))


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
