"""The MLflow store: a client that gives up in bounded time, and safe first creation."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from famseg.config import InputError
from famseg.config._atomic import open_to_update
from famseg.tracking._uri import sqlite_path, without_password
from famseg.tracking._view import VIEW_TAG, share_comparison

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOCK_SECONDS = 60.0
# These log whole tracebacks or every retry of a connection; one line of ours stands for them.
_NOISY = ("mlflow", "alembic", "urllib3")


def client(uri: str, timeout_s: int) -> MlflowClient:
    """Return a client of its own: no active run, no address for other code in this process.

    Args:
        uri: Address of the store, from :func:`famseg.tracking.resolve_uri`.
        timeout_s: Seconds to wait for an answer of a server.

    Returns:
        The client. Creating one for a database makes its tables: use it under :func:`creation_lock`
        the first time.
    """
    # MLflow reads these at each request; a user's own values win. Its defaults, 7 retries of up
    # to 120 s, would hold up a training for a quarter of an hour.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(timeout_s))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    # MLflow would print addresses between a program's own output.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient

    # The registry would default to MLFLOW_TRACKING_URI, which may name another store.
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence MLflow and what it uses: loggers, and warnings that speak to its developers.

    A user can do nothing about a deprecation between MLflow and SQLAlchemy, and a program that
    turns warnings into errors would lose its store by one.
    """
    loggers = [logging.getLogger(name) for name in (*_NOISY, "mlflow.store.db.utils")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def creation_lock(uri: str) -> Iterator[None]:
    """Hold the lock under which a SQLite store is opened; several first writers race otherwise.

    MLflow makes the tables by migrations that are no single transaction: a second process that
    finds them half made dies. The lock is the file ``<database>.lock``. Stores of other kinds, and
    platforms without ``fcntl``, need or have none.

    Args:
        uri: Address of the store.

    Raises:
        OSError: If the lock is not free within a minute, its file cannot be made, or a link lies
            in its place.
    """
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_to_update(path.with_name(f"{path.name}.lock")) as file:
        _lock(file.fileno(), path)
        yield  # closing the file releases the lock, and so does the end of the process


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # pragma: no cover - not POSIX
        return
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"{path}.lock has been held for a minute") from None
            time.sleep(0.05)
        except OSError:
            return  # a network file system without locks: no worse than without this function
        else:
            return


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """Return the id of an experiment, made if it is missing.

    Args:
        client: The client of the store.
        uri: Address of the store.
        name: Name of the experiment.

    Returns:
        Its id.

    Raises:
        InputError: If the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifacts(uri, name)))
        except MlflowException:
            # Another process was first; anything else shows in the second look.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise InputError(
            f"tracking.experiment: {name!r} was deleted. Choose another name, or run "
            f"MLFLOW_TRACKING_URI={without_password(uri)} "
            f"mlflow experiments restore -x {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def prepare_store(
    uri: str, experiment: str | None = None, *, timeout_s: int = 10
) -> dict[str, str]:
    """Make a database ready to be looked at, and look for experiments in it.

    Args:
        uri: Address of the store, from :func:`famseg.tracking.resolve_uri`.
        experiment: Name of the experiment, which is not created; None for all experiments that
            have a comparison view.
        timeout_s: Seconds to wait for an answer of a server.

    Returns:
        Ids of the experiments by name, the newest first; empty if there are none yet.

    Raises:
        InputError: If the store cannot be opened or does not answer.
    """
    try:
        with quiet(), creation_lock(uri):
            store = client(uri, timeout_s)
            if experiment is None:
                found = [each for each in store.search_experiments() if VIEW_TAG in each.tags]
            else:
                named = store.get_experiment_by_name(experiment)
                found = [] if named is None else [named]
            for each in found:
                share_comparison(store, each.experiment_id)
    except Exception as error:
        raise InputError(
            f"{without_password(uri)}: the MLflow store cannot be opened ({reason(error)}). Check "
            "the address, and that it may be read and written; famseg doctor tells more."
        ) from error
    return {each.name: str(each.experiment_id) for each in found}


def reason(error: BaseException) -> str:
    """Return what went wrong in a few words: the innermost cause, on one line.

    Example:
        >>> reason(OSError(28, "No space left on device"))
        'No space left on device'
    """
    seen = {id(error)}
    while (cause := error.__cause__ or error.__context__) is not None and id(cause) not in seen:
        seen.add(id(cause))
        error = cause
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if "failed with error code 401" in text:  # MLflow's words, which go on with HTML
        return "it refuses the login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    line = without_password(" ".join(text.split()))
    return line if len(line) <= 120 else f"{line[:117]}..."


def _artifacts(uri: str, name: str) -> str | None:
    """Place artifacts beside a SQLite file; MLflow would take the working folder of the moment."""
    path = sqlite_path(uri)
    if path is None:
        return None
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    return (path.parent / "mlruns" / safe).as_uri()
