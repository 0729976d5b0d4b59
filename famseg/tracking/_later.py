"""Files for a run that has ended in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from famseg.tracking import _store
from famseg.tracking._quiet import quiet
from famseg.tracking._uri import resolve_uri, sqlite_path, without_password

_logger = logging.getLogger("famseg")


def add_artifact(
    identity: Mapping[str, object], path: Path, *, uri: str | None = None, timeout_s: int = 10
) -> bool:
    """Copy a file to a run that was tracked; its state, metrics and other files stay.

    Args:
        identity: What ``tracking.json`` holds: ``run_id`` and ``uri``.
        path: The file. It replaces one of the same name.
        uri: Address of the store in the configuration, which may hold a password.
        timeout_s: Seconds to wait for an answer of a server.

    Returns:
        Whether the store took it. Where it did not, one warning tells why.
    """
    run_id, noted = identity.get("run_id"), identity.get("uri")
    if not isinstance(run_id, str) or not isinstance(noted, str):
        return False
    configured = resolve_uri(uri)
    address = configured if without_password(configured) == noted else noted
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
            noted,
            _store.reason(error),
        )
        return False
    return True
