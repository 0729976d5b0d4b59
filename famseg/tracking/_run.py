"""The MLflow run behind a tracker."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from famseg.tracking._courier import Courier
from famseg.tracking._first_page import Dataset
from famseg.tracking._images import cell, to_image
from famseg.tracking._names import cut, milliseconds, valid_name
from famseg.tracking._opening import Opened, Opening, set_tags
from famseg.tracking._outbox import Outbox, RefusedError
from famseg.tracking._quiet import quiet
from famseg.tracking._uri import sqlite_path, without_password
from famseg.tracking._view import share_comparison

if TYPE_CHECKING:
    import numpy as np

_logger = logging.getLogger("famseg")

Status = Literal["FINISHED", "FAILED", "KILLED"]
# Metrics of an epoch: the epoch, names and values, and the time of measurement.
Points = tuple[int, Mapping[str, float], float]

# Limits of MLflow for one request and for one value.
_MOST_METRICS = 1000
_MOST_PARAMETERS = 100
_LONGEST_PARAMETER = 6000


# How long a training waits for its run to be opened before it continues without: for a server,
# which may hang, and for a file, whose tables may have to be created.
_SERVER_WAIT_S, _FILE_WAIT_S = 5.0, 60.0
_PATIENCE_S, _PATIENCE_WITH_FILES_S = 60.0, 600.0


class Run:
    """A run in the store, created if necessary; sends for :class:`famseg.tracking.Tracker`.

    Everything, including the opening of the run, goes through an outbox that a thread empties. The
    caller's thread prepares entries, and only the other thread uses the client.

    Args:
        uri: Address of the store.
        experiment: Name of the experiment.
        timeout_s: Seconds to wait for the reply of a server.
        name: Name of the run.
        tags: Its tags.
        run_id: The run to resume, or None.
        start: Mark of the run in the store, by which it is found if its id is not known.
        scores: Names of the metrics that the comparison view charts.
        opened: Called in the thread with the run's id once it is known.
        dataset: The training data, or None.
    """

    # Many arguments: those of Tracker.start, with names and defaults resolved.
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
        scores: Sequence[str] = (),
        opened: Callable[[str], None] | None = None,
        dataset: Dataset | None = None,
    ) -> None:
        self.uri = without_password(uri)
        self._uri = uri
        self._box = Outbox(f"MLflow store {self.uri}", patience_s=_PATIENCE_S)
        # Files may be sent to another machine than metrics; if it is down, metrics still arrive.
        self._files = Outbox(
            f"Artifact store of MLflow {self.uri}",
            patience_s=_PATIENCE_WITH_FILES_S,
            ready=self._can_take_files,
        )
        self._courier = Courier((self._box, self._files))
        self._opening = Opening(
            uri=uri,
            experiment=experiment,
            timeout_s=timeout_s,
            name=name,
            tags=tags,
            run_id=run_id,
            start=start,
        )
        self._on_opened = opened
        self._opened: Opened | None = None
        # Last step of each series of images, at which the view opens.
        self._images: dict[str, int] = {}
        self._scores = [valid_name(name) for name in scores]
        self._dataset = dataset

    def _can_take_files(self) -> bool:
        return self._opened is not None and self._box.problem is None

    @property
    def waiting(self) -> int:
        return len(self._box) + len(self._files)

    @property
    def problem(self) -> str | None:
        return self._box.problem or self._files.problem

    @property
    def run_id(self) -> str | None:
        return self._opening.resumed if self._opened is None else self._opened.run_id

    @property
    def experiment_id(self) -> str | None:
        return None if self._opened is None else self._opened.experiment_id

    def open(self, parameters: Mapping[str, str]) -> None:
        """Create or reopen the run and send its parameters; waits for the first try.

        Raises:
            InputError: If a user error is found while it waits.
        """
        with quiet():  # in this thread, since simultaneous imports in two can fail
            import mlflow  # noqa: F401
        self._box.fault_is_awaited = True
        self._box.put("the run", self._open, essential=True, opening=True)
        self._put(
            "the parameters", lambda run: self._send_parameters(run, parameters), opening=True
        )
        self._put("the comparison view", lambda run: self._share(run), opening=True)
        if self._dataset is not None:
            self._put("the dataset", self._send_dataset, opening=True)
        is_file = sqlite_path(self._uri) is not None
        self._courier.flush(_FILE_WAIT_S if is_file else _SERVER_WAIT_S)
        self._box.fault_is_awaited = False
        if self._box.fault is not None:
            self._courier.end()
            raise self._box.fault

    def flush(self) -> bool:
        """Try all waiting entries, and wait until each was tried; return whether none is left."""
        return self._courier.flush()

    def _open(self) -> None:
        self._opened = self._opening()
        if self._on_opened is not None:
            self._on_opened(self._opened.run_id)

    def _put(
        self,
        what: str,
        action: Callable[[Opened], None],
        *,
        box: Outbox | None = None,
        opening: bool = False,
    ) -> None:
        def act() -> None:
            # The entry that opens the run stays first in the queue until it succeeds.
            if self._opened is None:
                raise RuntimeError("the run is not open")
            action(self._opened)

        if not self._box.closed and not self._courier.foreign:
            (self._box if box is None else box).put(what, act, opening=opening)
            self._courier.wake()

    def _send_parameters(self, run: Opened, parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        texts = {
            valid_name(key): cut(without_password(text), _LONGEST_PARAMETER)
            for key, text in parameters.items()
        }
        items = [Param(key, text) for key, text in texts.items() if key not in run.parameters]
        for start in range(0, len(items), _MOST_PARAMETERS):
            run.client.log_batch(run.run_id, params=items[start : start + _MOST_PARAMETERS])

    def _send_dataset(self, run: Opened) -> None:
        from mlflow.entities import Dataset as Entity
        from mlflow.entities import DatasetInput, InputTag

        if self._dataset is None:
            return
        name, digest, source = self._dataset
        entity = Entity(name, digest, source_type="famseg", source=source)
        # MLflow stores one input per run, name and digest, so a resumed run has it only once.
        context = InputTag("mlflow.data.context", "training")
        run.client.log_inputs(run.run_id, [DatasetInput(entity, [context])])

    def _share(self, run: Opened) -> None:
        share_comparison(run.client, run.experiment_id, self._images, self._scores)

    def send_metrics(self, points: Sequence[Points]) -> None:
        """Send metrics of epochs, except points that the run already contains."""

        def send(run: Opened) -> None:
            self._send(
                run,
                [
                    (name, value, milliseconds(time_s), epoch)
                    for epoch, metrics, time_s in points
                    for key, value in metrics.items()
                    if epoch not in _steps(run, name := valid_name(key))
                ],
            )

        self._put("metrics", send)

    def send_results(self, metrics: Mapping[str, float], time_s: float) -> None:
        """Send the numbers of an evaluation at step 0, replacing those that have changed."""

        def send(run: Opened) -> None:
            points = []
            for key, value in metrics.items():
                known = run.metrics.get(valid_name(key))
                if known is None or known.value != value:
                    # If a step has several points, MLflow shows the latest.
                    last_ms = 0 if known is None else known.timestamp_ms + 1
                    points.append((valid_name(key), value, max(milliseconds(time_s), last_ms), 0))
            self._send(run, points)

        self._put("metrics", send)

    def _send(self, run: Opened, points: Sequence[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        items = [Metric(*point) for point in points]
        for start in range(0, len(items), _MOST_METRICS):
            run.client.log_batch(run.run_id, metrics=items[start : start + _MOST_METRICS])

    def send_artifact(self, path: Path, folder: str | None) -> None:
        """Copy a file or a folder to the run."""

        def send(run: Opened) -> None:
            if path.is_dir():
                run.client.log_artifacts(run.run_id, str(path), folder)
            elif path.exists():
                run.client.log_artifact(run.run_id, str(path), folder)
            else:
                raise RefusedError("no such file")

        self._put(f"the file {path}", send, box=self._files)

    def send_image(self, image: Path | str | np.ndarray[Any, Any], key: str, epoch: int) -> None:
        """Send an image of a series."""
        time_ms = milliseconds(time.time())
        name = valid_name(key, ascii_only=True)
        # A new mapping, since the thread may be reading the old one.
        self._images = {**self._images, name: max(epoch, self._images.get(name, 0))}
        source = image if isinstance(image, Path | str) else image.copy()

        def send(run: Opened) -> None:
            picture = to_image(source)
            run.client.log_image(
                run.run_id, picture, key=name, step=epoch, timestamp=time_ms, synchronous=True
            )

        self._put(f"the image {key}", send, box=self._files)

    def send_table(self, rows: Sequence[Mapping[str, object]], path: str) -> None:
        """Send a table, and add it to the tag by which the UI finds tables."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[cell(row.get(key)) for key in columns] for row in rows]
        table = {"columns": columns, "data": data}
        entry = {"path": path, "type": "table"}

        def send(run: Opened) -> None:
            run.client.log_dict(run.run_id, table, path)
            tags = run.client.get_run(run.run_id).data.tags
            logged = json.loads(tags.get("mlflow.loggedArtifacts", "[]"))
            if entry not in logged:
                text = json.dumps([*logged, entry])
                run.client.set_tag(run.run_id, "mlflow.loggedArtifacts", text)

        self._put(f"the table {path}", send, box=self._files)

    def send_model(self, name: str, path: str) -> None:
        """Register a logged model whose weights are an artifact of the run."""

        def send(run: Opened) -> None:
            from mlflow.entities import LoggedModelOutput
            from mlflow.exceptions import MlflowException

            stored = run.client.get_run(run.run_id)
            if stored.outputs is not None and stored.outputs.model_outputs:
                return  # a resumed run, or a retry
            try:
                model = run.client.create_logged_model(
                    run.experiment_id,
                    name=name,
                    source_run_id=run.run_id,
                    params={
                        key: stored.data.params[key]
                        for key in ("method", "lambda", "seed")
                        if key in stored.data.params
                    },
                    tags={"checkpoint": f"runs:/{run.run_id}/{path}"},
                    model_type="famseg",
                )
            except MlflowException as error:
                if error.error_code != "ENDPOINT_NOT_FOUND":
                    raise
                raise RefusedError("a server before MLflow 3 has no logged models") from error
            run.client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, 0)])
            run.client.finalize_logged_model(model.model_id, "READY")

        self._put(f"the model {name}", send)

    def send_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        given = dict(tags)
        self._put("the tags", lambda run: set_tags(run.client, run.run_id, given))

    def close(self, status: Status) -> None:
        """End the run, with a warning if the store lacks a part of it."""
        if self._courier.foreign:
            return
        time_ms = milliseconds(time.time())
        if self._images:
            self._put("the comparison view", lambda run: self._share(run))
        self._put("the end", lambda run: run.client.set_terminated(run.run_id, status, time_ms))
        sent = self._courier.flush() or self._box.closed  # closed: nothing can be sent
        self._courier.end()
        if not sent:
            _logger.warning(
                "MLflow store %s still does not answer (%s): %d entries were not sent. The run "
                "folder has them.",
                self.uri,
                self.problem or "it is too slow",
                self.waiting,
            )


def _steps(run: Opened, name: str) -> frozenset[int]:
    """Return the steps of a metric in a run at the time it was opened."""
    known = run.metrics.get(name)
    return frozenset() if known is None else known.steps
