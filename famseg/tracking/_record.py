"""The record of a run in its own folder: one line of JSON per epoch."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from famseg.files import open_to_read, open_to_update, parse_json, write_atomically
from famseg.messages import InputError

_logger = logging.getLogger("famseg")

METRICS_FILE = "metrics.jsonl"
_RESERVED = ("epoch", "time")
_LARGEST = 1e308  # JSON integers are unbounded, floats are not

Record = dict[str, float | None]


class LocalRecord:
    """The metrics of a run in ``metrics.jsonl``, with one line per epoch, written immediately.

    A line is flushed and synced when :meth:`append` returns, so a killed process loses at most the
    current line. A value that is not finite is written as ``null`` (JSON has no NaN). A full disk
    does not stop the run: lines are kept in memory and written once there is space.

    Use :meth:`create` for a new run and :meth:`resume` to continue one.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> record = LocalRecord.create(folder)
        >>> record.append(1, {"train/loss": 0.5, "val/dsc": float("nan")})
        >>> [(row["epoch"], row["train/loss"], row["val/dsc"]) for row in read_metrics(folder)]
        [(1, 0.5, None)]
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        self._waiting = b""
        self._warned = False

    @classmethod
    def create(cls, folder: Path) -> LocalRecord:
        """Start the record of a new run.

        Args:
            folder: The run folder, which is created if it does not exist.

        Returns:
            The empty record.

        Raises:
            InputError: If the folder already holds a record, or cannot be written to.
        """
        path = Path(folder) / METRICS_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_to_update(path) as file:
                taken = bool(file.read(1))
            if taken:
                raise InputError(
                    f"{path}: contains the record of another run. Resume that run, or choose a new "
                    "folder."
                )
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror}). Choose another run folder."
            ) from error
        return cls(path, 0)

    @classmethod
    def resume(cls, folder: Path, last_epoch: int) -> LocalRecord:
        """Continue the record of a run that was stopped.

        Lines of epochs after the checkpoint are removed, since these epochs will be rerun.

        Args:
            folder: The run folder.
            last_epoch: Last epoch in the checkpoint.

        Returns:
            The record with the epochs up to ``last_epoch``.

        Raises:
            InputError: If the folder cannot be written to.
        """
        path = Path(folder) / METRICS_FILE
        kept = [row for row in read_metrics(folder) if _epoch(row) <= last_epoch]
        text = b"".join(_line(row) for row in kept)
        try:
            write_atomically(path, text)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror}). Free some space or fix its "
                "permissions."
            ) from error
        return cls(path, len(text))

    def append(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch; several calls for one epoch are allowed.

        Args:
            epoch: The epoch, numbered as in the training.
            metrics: Names and values, which may be numbers of any type, including zero-dimensional
                tensors.

        Raises:
            ValueError: If a metric is named ``epoch`` or ``time``.
        """
        taken = sorted(set(metrics) & set(_RESERVED))
        if taken:
            raise ValueError(
                f"{taken[0]!r} is the name of another column. Give the metric another name."
            )
        row: Record = {"epoch": int(epoch), "time": round(time.time(), 3)}
        row.update((name, _finite(float(value))) for name, value in metrics.items())
        self._waiting += _line(row)
        try:
            self._write()
        except OSError as error:
            if not self._warned:
                _logger.warning(
                    "%s: cannot be written (%s). The run continues; its lines are kept in memory "
                    "until the file can be written.",
                    self.path,
                    error.strerror,
                )
            self._warned = True

    def _write(self) -> None:
        # Reopened at every call, in case the folder was temporarily unavailable.
        with open_to_update(self.path) as file:
            # The rest of an interrupted write would corrupt the next line.
            self._size = min(self._size, file.seek(0, os.SEEK_END))
            file.truncate(self._size)
            file.seek(self._size)
            file.write(self._waiting)
            file.flush()
            os.fsync(file.fileno())
        self._size += len(self._waiting)
        self._waiting = b""
        self._warned = False


def read_metrics(folder: Path) -> list[Record]:
    """Read the record of a run; an incomplete last line, which a kill can leave, is ignored.

    Args:
        folder: The run folder.

    Returns:
        One mapping per line: ``epoch``, ``time`` (seconds since 1970) and the metrics, None if a
        value was not finite. Empty if there is no record.

    Raises:
        InputError: If a line other than the last is damaged, or the file cannot be read.
    """
    path = Path(folder) / METRICS_FILE
    try:
        with open_to_read(path) as file:
            *lines, tail = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Restore the file.") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is None and number == len(lines) and tail == b"":
            break
        if row is None:
            raise InputError(
                f"{path}:{number}: is not a line of metrics. Remove this line, or restore the file."
            )
        rows.append(row)
    return rows


def _parse(line: bytes) -> Record | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
        return None
    for value in row.values():  # None if it was not finite
        if value is not None and (not isinstance(value, int | float) or abs(value) > _LARGEST):
            return None
    return row if row["epoch"] >= 0 else None


def _line(row: Record) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _epoch(row: Record) -> int:
    return int(row["epoch"] or 0)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
