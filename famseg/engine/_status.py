"""How a run stands, in a file of its folder: whether it runs, ended, failed or was killed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from famseg.config import InputError
from famseg.config._json import read_json
from famseg.engine._signals import Interrupted
from famseg.tracking import write_json

NAME = "status.json"
RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"
KILLED, LOST = "killed", "running elsewhere, or killed"


@contextmanager
def status_kept(folder: Path) -> Iterator[None]:
    """Write how a run stands when it begins, and how it ended: also by an exception.

    A process that is killed leaves the entry of a running one, with its number and the machine's
    boot, by which `read_status` can tell. A full disk is no fault of this file: it is then left.

    Args:
        folder: The run folder.
    """
    _write(folder, RUNNING)
    try:
        yield
    except Interrupted as signal:
        _write(folder, INTERRUPTED, str(signal))
        raise
    except BaseException as error:
        lines = str(error).splitlines()
        _write(folder, FAILED, lines[0] if lines else type(error).__name__)
        raise
    _write(folder, FINISHED)


def read_status(folder: Path) -> str | None:
    """Return how a run stands, in words; None where nothing is written.

    ``running``, ``finished``, ``interrupted (why)``, ``failed (why)``; of a process that no longer
    exists ``killed``, or ``running elsewhere, or killed`` if it was one of another machine or
    container.

    Args:
        folder: The run folder.
    """
    try:
        content = read_json(folder / NAME, "")
    except InputError:
        return None
    if not isinstance(content.get("state"), str):
        return None
    state, reason = content["state"], content.get("reason")
    if state == RUNNING:
        return _running(content)
    return f"{state} ({reason})" if reason else state


def _running(content: Mapping[str, Any]) -> str:
    if content.get("place") != _place():
        return LOST
    try:
        process = psutil.Process(content.get("pid"))
        # A number is given anew; a process that has it now began after the entry was written.
        alive = process.create_time() <= float(content["time"])
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        return KILLED
    return RUNNING if alive else KILLED


def _write(folder: Path, state: str, reason: str | None = None) -> None:
    now = datetime.now(UTC)
    entry = {
        "state": state,
        "reason": reason,
        "since": now.isoformat(timespec="seconds"),
        "time": now.timestamp(),
        "pid": os.getpid(),
        "place": _place(),
    }
    with suppress(OSError):
        write_json(folder / NAME, entry)


def _place() -> str:
    """Return what tells a machine's boot and a container apart, without their names."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{psutil.boot_time():.0f}"
