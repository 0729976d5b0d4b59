"""python leave_early.py URI WAY: tracks a run and exits without finishing it, by error or exit.

Before that, a forked child process logs to and finishes the tracker of its parent.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from famseg.tracking import Tracker


def answer_slowly(client: Any) -> None:
    """Make the program exit before the first epoch has arrived."""
    log = client.log_batch

    def slow(*arguments: object, **options: object) -> None:
        time.sleep(0.2)
        log(*arguments, **options)

    client.log_batch = slow


def main(uri: str, way: str) -> None:
    tracker: Any = Tracker.start(uri=uri, run_name="a", parameters={})
    print(tracker.run_id, flush=True)
    child = os.fork()
    if child == 0:
        tracker.log_epoch(99, {"a": 99.0})
        tracker.finish("FAILED")
        os._exit(0)
    os.waitpid(child, 0)
    answer_slowly(tracker._run._opened.client)
    for epoch in (1, 2, 3):
        tracker.log_epoch(epoch, {"a": float(epoch)})
    if way == "error":
        raise RuntimeError("an error of the program")
    if way == "with":
        with tracker:
            raise KeyboardInterrupt


if __name__ == "__main__":
    main(*sys.argv[1:])
