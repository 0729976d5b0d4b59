"""python kill_creation.py URI N: opens a store and is killed before the N-th SQL statement.

With N = rename it is killed when all tables exist, before the database is renamed.
"""

from __future__ import annotations

import os
import signal
import sys

from sqlalchemy import event
from sqlalchemy.engine import Engine

from famseg.tracking import prepare_store


def die_at(when: str) -> None:
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1
        if str(statements) == when:
            os.kill(os.getpid(), signal.SIGKILL)

    def renamed(name: str, arguments: tuple[object, ...]) -> None:
        if when == name.removeprefix("os.") and str(arguments[0]).endswith(".part"):
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    sys.addaudithook(renamed)


if __name__ == "__main__":
    die_at(sys.argv[2])
    prepare_store(sys.argv[1])
