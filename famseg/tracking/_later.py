"""Changes to a run in MLflow after its end: adding a file, deleting the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from famseg.messages import InputError
from famseg.tracking import _store
from famseg.tracking._quiet import quiet
from famseg.tracking._uri import resolve_uri, sqlite_path, without_password

_logger = logging.getLogger("famseg")


def delete_run(
    identity: Mapping[str, object], *, uri: str | None = None, timeout_s: int = 10
) -> bool:
    """Mark a run as deleted in its MLflow store; ``mlflow gc`` removes such runs for good.

    Args:
        identity: The content of ``tracking.json``: ``run_id`` and ``uri``.
        uri: Address of the store in the configuration, which may contain a password.
        timeout_s: Seconds to wait for the reply of a server.

    Returns:
        Whether there was such a run. A store whose file is gone has none.

    Raises:
        InputError: If the store cannot be reached or used.
    """
    run_id, address = identity.get("run_id"), _address(identity, uri)
    if not isinstance(run_id, str) or address is None:
        return False
    database = sqlite_path(address)
    if database is not None and not database.is_file():
        return False
    try:
        with quiet():
            client = _store.open_store(address, timeout_s)
            client.delete_run(run_id)
    except Exception as error:
        # Only MLflow's error code counts, since other servers reply "not found" to any address.
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise InputError(
            f"{without_password(address)}: run {run_id} cannot be deleted there "
            f"({_store.reason(error)}). Start the store, or delete the folder only: --keep-mlflow."
        ) from error
    return True


def _address(identity: Mapping[str, object], uri: str | None) -> str | None:
    """Return the address of the store to which a run was sent, with its password if known."""
    noted = identity.get("uri")
    if not isinstance(noted, str):
        return None
    configured = resolve_uri(uri)
    return configured if without_password(configured) == noted else noted


def add_artifact(
    identity: Mapping[str, object], path: Path, *, uri: str | None = None, timeout_s: int = 10
) -> bool:
    """Copy a file to a tracked run without changing its state, metrics and other files.

    Args:
        identity: The content of ``tracking.json``: ``run_id`` and ``uri``.
        path: The file, which replaces an existing one with the same name.
        uri: Address of the store in the configuration, which may contain a password.
        timeout_s: Seconds to wait for the reply of a server.

    Returns:
        Whether the store accepted it. If not, a warning states the reason.
    """
    run_id, address = identity.get("run_id"), _address(identity, uri)
    if not isinstance(run_id, str) or address is None:
        return False
    database = sqlite_path(address)
    try:
        if database is not None and not database.is_file():
            raise FileNotFoundError("there is no such file")
        with quiet():
            client = _store.open_store(address, timeout_s)
            client.log_artifact(run_id, str(path))
    except Exception as error:
        _logger.warning(
            "%s was not sent to the MLflow store %s (%s). The run folder has it.",
            path,
            identity["uri"],
            _store.reason(error),
        )
        return False
    return True
