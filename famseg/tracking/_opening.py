"""Opening of a run in the store: it is found by its id or its mark, or created."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from famseg.tracking import _store
from famseg.tracking._first_page import DESCRIPTION_TAG
from famseg.tracking._names import cut, milliseconds
from famseg.tracking._uri import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

_logger = logging.getLogger("famseg")

# Limits of MLflow for one request and for one value.
_MOST_TAGS = 100
_LONGEST_TAG = 8000
# Tag with the mark by which a run is found.
_START_TAG = "famseg.start"
# Prefix of MLflow's names for incompletely copied artifacts.
_STAGED = ".artifact.uploading."


@dataclass(frozen=True)
class Known:
    """The content of the store for a metric: its steps, and the last point of step 0."""

    steps: frozenset[int]
    value: float | None
    timestamp_ms: int


@dataclass(frozen=True)
class Opened:
    """A run that exists in the store, with its content before it was resumed."""

    client: MlflowClient
    experiment_id: str
    run_id: str
    parameters: frozenset[str] = frozenset()
    metrics: Mapping[str, Known] = field(default_factory=dict)


class Opening:
    """Opens a run; repeated calls after a failure never create a second one.

    Args:
        uri: Address of the store.
        experiment: Name of the experiment.
        timeout_s: Seconds to wait for the reply of a server.
        name: Name of the run.
        tags: Its tags.
        run_id: The run to resume, or None.
        start: The mark of the run.
    """

    def __init__(
        self,
        *,
        uri: str,
        experiment: str,
        timeout_s: int,
        name: str,
        tags: Mapping[str, str],
        run_id: str | None,
        start: str,
    ) -> None:
        self._uri = uri
        self._experiment = experiment
        self._timeout_s = timeout_s
        self._name = name
        self._tags = {**tags, _START_TAG: start}
        self._start = start
        self._started_ms = milliseconds(time.time())
        self._missing_said = False
        self.resumed = run_id

    def __call__(self) -> Opened:
        """Return the run, reopened or new.

        Raises:
            InputError: If the experiment was deleted.
            StoreFaultError: If the store cannot be used.
            Exception: Whatever MLflow raises.
        """
        client = _store.open_store(self._uri, self._timeout_s)
        experiment_id = _store.experiment_id(client, self._uri, self._experiment)
        stored = self._find(client, experiment_id)
        if stored is not None:
            return self._reopen(client, stored)
        run = client.create_run(
            experiment_id,
            start_time=self._started_ms,
            tags={key: cut(text, _LONGEST_TAG) for key, text in self._tags.items()},
            run_name=self._name,
        )
        return Opened(client, experiment_id, str(run.info.run_id))

    def _find(self, client: MlflowClient, experiment_id: str) -> StoredRun | None:
        """Return the run to resume, by its id or by its mark; None if the store has none."""
        stored = None if self.resumed is None else _stored(client, self.resumed)
        if stored is not None:
            return stored
        # A run whose creation timed out, or was killed before it was recorded.
        mine = f"tags.`{_START_TAG}` = '{self._start}'"
        found = client.search_runs([experiment_id], mine, max_results=1)
        if found:
            return found[0]
        if self.resumed is not None:
            self._tags["famseg.resumed_from"] = self.resumed
            if not self._missing_said:
                _logger.warning(
                    "MLflow store %s has no run %s: a new run takes its place.",
                    without_password(self._uri),
                    self.resumed,
                )
            self._missing_said = True
        return None

    def _reopen(self, client: MlflowClient, stored: StoredRun) -> Opened:
        run_id = str(stored.info.run_id)
        client.update_run(run_id, status="RUNNING", name=self._name)
        known = {}
        for key in stored.data.metrics:
            history = client.get_metric_history(run_id, key)
            results = [(point.timestamp, point.value) for point in history if point.step == 0]
            timestamp, value = max(results, default=(0, None))
            known[key] = Known(frozenset(point.step for point in history), value, timestamp)
        # The description is kept, since it may have been edited in the UI.
        kept = {DESCRIPTION_TAG} & stored.data.tags.keys()
        set_tags(client, run_id, {k: text for k, text in self._tags.items() if k not in kept})
        remove_staged(stored.info.artifact_uri)
        return Opened(
            client, stored.info.experiment_id, run_id, frozenset(stored.data.params), known
        )


def remove_staged(artifact_uri: str) -> None:
    """Remove artifacts of a run on this disk that a killed process copied incompletely.

    MLflow copies to a hidden name and renames. No other process writes to the run, since its folder
    has one owner.

    Args:
        artifact_uri: Location of the artifacts; nothing is done unless it is a folder on this
            machine.
    """
    address = urlsplit(artifact_uri)
    if address.scheme not in ("", "file") or address.netloc:
        return
    folder = Path(unquote(address.path))
    for path in folder.rglob(f"{_STAGED}*") if folder.is_dir() else ():
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run, in as many requests as MLflow's limit requires."""
    from mlflow.entities import RunTag

    items = [RunTag(key, cut(text, _LONGEST_TAG)) for key, text in tags.items()]
    for start in range(0, len(items), _MOST_TAGS):
        client.log_batch(run_id, tags=items[start : start + _MOST_TAGS])


def _stored(client: MlflowClient, run_id: str) -> StoredRun | None:
    """Return a run in the store; None if there is no longer one with this id."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return None if run.info.lifecycle_stage == "deleted" else run
