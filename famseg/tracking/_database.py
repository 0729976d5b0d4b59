"""The SQLite file of an MLflow store, which is created atomically and checked before use."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from famseg.files import fresh_part, open_to_update, remove_parts
from famseg.tracking._uri import escaped, sqlite_path

_LOCK_SECONDS = 60.0
# Suffixes of the files that SQLite creates next to a database while writing.
_COMPANIONS = ("-journal", "-wal", "-shm")
# Messages of SQLite when a migration was started before.
_BEGUN_BEFORE = ("already exists", "duplicate column", "no such index", "no such column")
_OLD_SCHEMA = "out-of-date database schema"


class StoreFaultError(Exception):
    """A store cannot be used without action by the user.

    Args:
        what: Short description of the problem.
        advice: What to do, as a sentence.
    """

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}. {advice}")
        self.what = what
        self.advice = advice


@contextlib.contextmanager
def creation_lock(uri: str) -> Iterator[bool]:
    """Hold the lock for opening a SQLite store, to avoid races between first writers.

    The lock is the file ``<database>.lock``. Other types of stores do not need a lock; platforms
    without ``fcntl`` have none.

    Args:
        uri: Address of the store.

    Yields:
        Whether access is exclusive; False if there is no lock.

    Raises:
        OSError: If the lock is not free within a minute, or its file cannot be created or is a
            link.
    """
    path = sqlite_path(uri)
    if path is None:
        yield False
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_to_update(path.with_name(f"{path.name}.lock")) as file:
        held = _lock(file.fileno(), path)
        try:
            yield held
        finally:
            if held:
                _unlock(file.fileno())


def _lock(descriptor: int, path: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # pragma: no cover - not POSIX
        return False
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"{path}.lock has been held for a minute") from None
            time.sleep(0.05)
        except OSError:
            return False  # a network file system without locks
        else:
            return True


def _unlock(descriptor: int) -> None:
    """Release the lock; closing the file is not sufficient if a process was forked meanwhile."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_UN)


def make_database(path: Path, *, alone: bool) -> None:
    """Create the database of a store with all its tables, unless it exists.

    MLflow creates the tables by about a hundred migrations, which are not a single transaction, so
    an incomplete database is unusable. It is therefore created under another name and renamed.

    Args:
        path: The file.
        alone: Whether the lock is held, so that remains of killed processes can be removed.

    Raises:
        OSError: If it cannot be written.
        Exception: Whatever MLflow and SQLAlchemy raise.
    """
    if alone:
        remove_parts(path)
    if _has_content(path):
        return
    with contextlib.suppress(FileExistsError), fresh_part(path) as part:
        _make_tables(part)
        if _has_content(path):  # created by a program that does not use the lock, such as mlflow ui
            raise FileExistsError(path)
        for companion in _COMPANIONS:  # SQLite would apply those of an older file to the new one
            path.with_name(path.name + companion).unlink(missing_ok=True)


def _has_content(path: Path) -> bool:
    """Return whether there is a database, since SQLite creates an empty file first."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _make_tables(path: Path) -> None:
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    uri = f"sqlite:///{escaped(path)}"
    try:
        SqlAlchemyStore(uri, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    finally:
        close_connections(uri)


def close_connections(uri: str) -> None:
    """Close MLflow's connections to a database, which would follow a moved file.

    Args:
        uri: Address of the database.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = SqlAlchemyStore._engine_map.pop(uri, None)
    if engine is not None:
        engine.dispose()


def check_tables(path: Path) -> None:
    """Find tables of a killed migration, in negligible time.

    Args:
        path: The database.

    Raises:
        StoreFaultError: If there are any.
    """
    try:
        address = f"{path.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=1)) as base:
            rows = base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    except sqlite3.Error:
        return  # locked, or not a database, which MLflow reports
    if any(name.startswith("_alembic_tmp_") for (name,) in rows):
        raise _half_made(path)


def opening_fault(path: Path, error: Exception) -> StoreFaultError | None:
    """Return the problem with a database's tables in an MLflow error; None for other errors.

    Args:
        path: The database.
        error: The error when opening it.
    """
    text = str(error)
    if _OLD_SCHEMA in text:
        return StoreFaultError(
            "its tables are from another version of MLflow, or incomplete",
            f"Run: mlflow db upgrade sqlite:///{escaped(path)}. If that fails: {_way_out(path)}",
        )
    cause = getattr(error, "orig", None)  # the error of the database in SQLAlchemy
    if isinstance(cause, sqlite3.OperationalError) and any(
        words in str(cause) for words in _BEGUN_BEFORE
    ):
        return _half_made(path)
    return None


def _half_made(path: Path) -> StoreFaultError:
    return StoreFaultError("a program was killed while it created the tables", _way_out(path))


def _way_out(path: Path) -> str:
    return (
        f"Move the file away (mv {path} {path}.broken). The next start creates a new store, "
        "and famseg train --resume sends the record of a run to it."
    )
