"""Run commands one after the other, those of famseg in forks that have the libraries loaded.

    python run_commands.py COMMANDS.json

The file holds a list of argument lists; the last line of the output is JSON: a status for each.
Importing the libraries takes longer than most of the commands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - imported for the commands
import monai.engines  # noqa: F401

from famseg.cli import main


def run(words: list[str], number: int) -> int:
    """Run a command; what it prints goes into files."""
    target = Path(f"{number}.out")
    if ">" in words:
        target = Path(words[-1])
        words = words[: words.index(">")]
    if words[0] != "famseg":
        with target.open("w") as out:
            return subprocess.run(words, stdout=out, stderr=subprocess.STDOUT).returncode
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for stream, path in ((1, target), (2, Path(f"{number}.err"))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = words
    status = 1
    try:
        main()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    commands = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([run(words, number) for number, words in enumerate(commands)]))
