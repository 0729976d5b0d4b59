"""Suppression of log messages and warnings of MLflow and its libraries in selected threads."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator

# These log whole tracebacks or every retry of a connection, which one line of famseg replaces. The
# last one has its own level.
_NOISY = ("mlflow", "alembic", "urllib3", "mlflow.store.db.utils")


class _Asked(threading.local):
    """Nesting depth of `quiet` in this thread."""

    times = 0


_asked = _Asked()


class _ByThread(type):
    def __subclasscheck__(cls, other: type) -> bool:
        return _asked.times > 0


class _WarningOfQuietThread(Warning, metaclass=_ByThread):
    """Matches every warning in a thread inside `quiet`.

    ``warnings.catch_warnings`` changes the filters of all threads, and may overwrite later changes
    of other threads. A filter of this class can stay installed, since it affects only selected
    threads.
    """


class _Levels:
    """The levels of the loggers, which are shared by all threads.

    The first thread inside `quiet` raises them, and the last one restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: list[tuple[logging.Logger, int]] = []

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            loggers = [logging.getLogger(name) for name in _NOISY]
            self._before = [(logger, logger.level) for logger in loggers]
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._restore()

    def begin_anew(self) -> None:
        """Forget the threads of the parent, which do not exist in a forked process."""
        self._lock = threading.Lock()
        self._restore()
        self._users = _asked.times

    def _restore(self) -> None:
        for logger, level in self._before:
            logger.setLevel(level)
        self._before = []


_levels = _Levels()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_levels.begin_anew)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress loggers of MLflow and its libraries, and warnings meant for their developers.

    Users cannot fix a deprecation between MLflow and SQLAlchemy, and in a program that turns
    warnings into errors it would make the store unusable. Warnings in other threads are shown, but
    loggers of these libraries are silent in all threads as long as any thread is inside.
    """
    first = warnings.filters[0] if warnings.filters else None
    if first is None or first[2] is not _WarningOfQuietThread:
        warnings.simplefilter("ignore", _WarningOfQuietThread)
    _levels.enter()
    _asked.times += 1
    try:
        yield
    finally:
        _asked.times -= 1
        _levels.leave()
