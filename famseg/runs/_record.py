"""The record of the epochs, completed from a checkpoint after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from famseg.files import write_atomically
from famseg.messages import InputError
from famseg.tracking import METRICS_FILE, read_metrics

Row = dict[str, float | None]


def complete_record(folder: Path, rows: Sequence[Mapping[str, float | None]]) -> list[Row]:
    """Add rows of a checkpoint that ``metrics.jsonl`` lacks, and return all rows.

    If a process is killed between its checkpoint and its record, an epoch is missing in the record.

    Args:
        folder: The run folder.
        rows: One for each epoch of the checkpoint, as in ``metrics.jsonl``, with ``epoch``.

    Raises:
        InputError: If the record is damaged, or cannot be written.
    """
    written = {int(row["epoch"] or 0): row for row in read_metrics(folder)}
    kept = {int(row["epoch"] or 0): dict(row) for row in rows}
    complete = [row for _, row in sorted((kept | written).items())]
    if len(complete) == len(written):
        return complete
    text = "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in complete)
    path = folder / METRICS_FILE
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}). Make room or fix its permissions."
        ) from error
    return complete
