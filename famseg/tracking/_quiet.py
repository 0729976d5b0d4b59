"""Silences the log messages and warnings of MLflow and its libraries in chosen threads."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator

# These log whole tracebacks or every retry of a connection; one line of ours replaces them. The
# last one has a level of its own.
_NOISY = ("mlflow", "alembic", "urllib3", "mlflow.store.db.utils")


class _Asked(threading.local):
    """How often this thread has asked for silence."""

    times = 0


_asked = _Asked()


class _ByThread(type):
    def __subclasscheck__(cls, other: type) -> bool:
        return _asked.times > 0


class _WarningOfQuietThread(Warning, metaclass=_ByThread):
    """Matches every warning in a thread that asked for silence.

    ``warnings.catch_warnings`` changes the filters of all threads, and restores what another
    thread may have changed since. A filter of this class can stay: it is for some threads only.
    """


class _Levels:
    """The levels of the loggers, which all threads share.

    The first thread that asks raises them, the last one restores them.
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
        """Forget the threads of the parent, which a forked process does not have."""
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
    """Silence MLflow and what it uses: loggers, and warnings that speak to its developers.

    A user can do nothing about a deprecation between MLflow and SQLAlchemy, and a program that
    turns warnings into errors would lose its store by one. Warnings of other threads are shown.
    Their loggers of these libraries are silent too, as long as any thread is in here.
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
