"""The MLflow store: a client with bounded waiting times, and safe creation."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from famseg.messages import InputError
from famseg.tracking._database import (
    StoreFaultError,
    check_tables,
    close_connections,
    creation_lock,
    make_database,
    opening_fault,
)
from famseg.tracking._quiet import quiet
from famseg.tracking._uri import sqlite_path, without_password
from famseg.tracking._view import VIEW_TAG, share_comparison

if TYPE_CHECKING:
    from mlflow import MlflowClient


def client(uri: str, timeout_s: int) -> MlflowClient:
    """Return a separate client that does not affect the active run or address of other code.

    Args:
        uri: Address of the store, from :func:`famseg.tracking.resolve_uri`.
        timeout_s: Seconds to wait for the reply of a server.

    Returns:
        The client. Creating a client for a database creates missing tables, which a kill can
        interrupt: see :func:`open_store`.
    """
    # MLflow reads these at each request; values set by the user take precedence. Its defaults, 7
    # retries of up to 120 s, would delay a training by a quarter of an hour.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(timeout_s))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    # MLflow would print addresses in the output of a program.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient

    # The registry would default to MLFLOW_TRACKING_URI, which may be another store.
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def open_store(uri: str, timeout_s: int) -> MlflowClient:
    """Return a client of a store, whose database is created if it does not exist.

    Args:
        uri: Address of the store.
        timeout_s: Seconds to wait for the reply of a server.

    Raises:
        StoreFaultError: If the tables of a SQLite database are incomplete or from another version.
        OSError: If a SQLite database cannot be created.
        Exception: Whatever MLflow and SQLAlchemy raise.
    """
    path = sqlite_path(uri)
    if path is None:
        return client(uri, timeout_s)
    with creation_lock(uri) as alone:
        make_database(path, alone=alone)
        check_tables(path)
        try:
            return client(uri, timeout_s)
        except Exception as error:
            close_connections(uri)
            fault = opening_fault(path, error)
            if fault is None:
                raise
            raise fault from error


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist.

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
            # Another process created it first; any other error is raised by the second lookup.
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
    """Prepare a database for the UI and find its experiments.

    Args:
        uri: Address of the store, from :func:`famseg.tracking.resolve_uri`.
        experiment: Name of the experiment, which is not created; None for all experiments that
            have a comparison view.
        timeout_s: Seconds to wait for the reply of a server.

    Returns:
        Ids of the experiments by name, the newest first; empty if there are none yet.

    Raises:
        InputError: If the store cannot be opened or does not answer.
    """
    try:
        with quiet():
            store = open_store(uri, timeout_s)
            if experiment is None:
                found = [each for each in store.search_experiments() if VIEW_TAG in each.tags]
            else:
                named = store.get_experiment_by_name(experiment)
                found = [] if named is None else [named]
            for each in found:
                share_comparison(store, each.experiment_id)
    except StoreFaultError as error:
        raise InputError(f"{without_password(uri)}: {error}") from error
    except Exception as error:
        raise InputError(
            f"{without_password(uri)}: the MLflow store cannot be opened ({reason(error)}). Check "
            "the address and that you may read and write it; famseg doctor shows details."
        ) from error
    return {each.name: str(each.experiment_id) for each in found}


def reason(error: BaseException) -> str:
    """Return the innermost cause of an error in one line.

    Example:
        >>> reason(OSError(28, "No space left on device"))
        'No space left on device'
    """
    if isinstance(error, StoreFaultError):
        return error.what
    seen = {id(error)}
    while (cause := error.__cause__ or error.__context__) is not None and id(cause) not in seen:
        seen.add(id(cause))
        error = cause
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if "failed with error code 401" in text:  # MLflow's message, which continues with HTML
        return "it rejects the login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    line = without_password(" ".join(text.split()))
    return line if len(line) <= 120 else f"{line[:117]}..."


def _artifacts(uri: str, name: str) -> str | None:
    """Return the folder of artifacts next to a SQLite file instead of the working folder."""
    path = sqlite_path(uri)
    if path is None:
        return None
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    return (path.parent / "mlruns" / safe).as_uri()
