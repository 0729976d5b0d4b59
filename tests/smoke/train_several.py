"""Train several configurations, each in a process of its own that has the libraries loaded.

Importing them takes four times as long as a smoke training.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - imported for the trainings
import monai.engines  # noqa: F401

from famseg.cli import main


def train(config: str, folder: Path) -> int:
    """Run ``famseg train`` in a new folder; return its exit status."""
    folder.mkdir()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open(f"{stream}.txt", os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["famseg", "train", "--config", config, "--json"]
    status = 1
    try:
        main()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    print(*(train(config, Path(Path(config).stem)) for config in sys.argv[1:]))
