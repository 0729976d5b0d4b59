"""famseg, killed before one of its file events: ``WATCHED NUMBER COUNTS ARGUMENTS...``.

Events are changes of files below the folder WATCHED: opening one to write, creating, renaming,
linking or removing one. The process kills itself by SIGKILL before event NUMBER; with 0 it is not
killed. Their number is written to the file COUNTS at the end.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "sqlite3.connect"}
_WRITES = os.O_WRONLY | os.O_RDWR


def watch(folder: str, number: int) -> Iterator[int]:
    """Count the changes by this process, and kill it before one of them; yield the count."""
    watched, seen = f"{Path(folder).resolve()}{os.sep}", 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event == "open":
            flags = arguments[2]
            changes = isinstance(flags, int) and flags & _WRITES
        else:
            changes = event in _CHANGES
        if not changes or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if os.path.abspath(os.fsdecode(arguments[0])).startswith(watched):  # noqa: PTH100  # no I/O
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    while True:
        yield seen


if __name__ == "__main__":
    folder, number, counts, *arguments = sys.argv[1:]
    import torch

    from famseg.cli import main

    torch.set_num_threads(1)
    changes = watch(folder, int(number))
    next(changes)
    sys.argv = ["famseg", *arguments]
    try:
        main()
    finally:
        Path(counts).write_text(str(next(changes)))
