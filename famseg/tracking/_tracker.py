"""One MLflow run with metrics per epoch, which never stops or delays a training."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from famseg.tracking._first_page import (
    DESCRIPTION_TAG,
    dataset_of,
    description,
    foremost,
    system_metrics,
)
from famseg.tracking._names import color, flatten, text_of
from famseg.tracking._run import Points, Run, Status
from famseg.tracking._uri import resolve_uri

if TYPE_CHECKING:
    import numpy as np

_logger = logging.getLogger("famseg")


class Tracker:
    """A run in MLflow; :meth:`start` opens one, :meth:`null` gives a tracker that does nothing.

    It owns its run by id: it neither joins an active run of other code nor leaves a run active.
    No method raises because of the store, and none but :meth:`start`, :meth:`flush` and
    :meth:`finish` waits for it: what is logged is sent by a thread, in order. As a context manager
    it ends the run: FINISHED, KILLED for an interruption, FAILED for another exception. In a forked
    process it does nothing.

    Example:
        >>> with Tracker.null() as tracker:
        ...     tracker.log_epoch(1, {"train/loss": 0.5})
        >>> tracker.run_id is None
        True
    """

    def __init__(
        self, run: Run | None, *, scores: Sequence[str] = (), monitored: bool = False
    ) -> None:
        self._run = run
        self._scores = tuple(scores)
        self._monitored = monitored
        self._nonfinite = 0
        self._warned: set[str] = set()
        self._finished = False

    @classmethod
    def null(cls) -> Tracker:
        """Return a tracker that does nothing: ranks other than 0, or tracking turned off."""
        return cls(None)

    # Many arguments: the properties of a run, each passed once by the caller.
    @classmethod
    def start(
        cls,
        *,
        run_name: str,
        parameters: Mapping[str, object],
        uri: str | None = None,
        experiment: str = "famseg",
        penalty_weight: float | None = None,
        method: str | None = None,
        tags: Mapping[str, str] | None = None,
        scores: Sequence[str] = (),
        run_id: str | None = None,
        start: str | None = None,
        opened: Callable[[str], None] | None = None,
        timeout_s: int = 10,
        monitor: bool = False,
    ) -> Tracker:
        """Start a run, or resume one.

        Database and experiment are created if they are missing, which several processes may do at
        once. Waits until the run exists, for a server at most 5 s: with a slow server it is opened
        later. If the store does not answer, there is one warning; the run is created later.

        Args:
            run_name: Name in the list of runs, see :func:`famseg.tracking.run_name`.
            parameters: The configuration, nested or flat; logged under dotted names. On resume,
                parameters that the run already has are not changed (MLflow cannot change them).
            uri: Address of the store; None: see :func:`famseg.tracking.resolve_uri`.
            experiment: Name of the experiment.
            penalty_weight: Lambda. Logged as the parameter ``lambda``, and since MLflow sorts
                parameters as text also as the metric ``lambda``; above 0 as ``log10_lambda`` too
                (0 has no logarithm: such a run shows in charts over ``lambda``).
            method: Label of the method, see :func:`famseg.tracking.method_label`. Logged as
                parameter and tag ``method``.
            tags: Tags of the run, see :func:`famseg.tracking.provenance_tags`.
            scores: Names of the metrics that the experiment's comparison charts, the foremost
                first: the validation metric, whose name begins with ``val/``, and those of the
                final evaluation.
            run_id: The run to resume. If it does not exist in the store, a new run is created.
            start: A text of letters and digits that no other run has, a new one by default. The run
                carries it as the tag ``famseg.start``: a program that has noted it finds the run
                again, even if it was killed before it knew the run's id.
            opened: Called with the id of the run once it is known, in another thread; must not
                raise.
            timeout_s: Seconds to wait for the reply of a server.
            monitor: Whether each epoch logs the load of the machine too (processor, memory, memory
                of GPUs), as the system metrics that the UI shows on a tab of their own.

        Returns:
            The tracker.

        Raises:
            InputError: If the address is faulty or the experiment was deleted.
        """
        store = resolve_uri(uri)
        flat = flatten(parameters)
        tags = dict(tags or {})
        metrics: dict[str, float] = {}
        if penalty_weight is not None:
            tags["mlflow.runColor"] = color(penalty_weight, method)
            flat["lambda"] = metrics["lambda"] = float(penalty_weight)
            if penalty_weight > 0:
                metrics["log10_lambda"] = math.log10(penalty_weight)
        if method is not None:
            flat["method"] = tags["method"] = method
        tags.setdefault(DESCRIPTION_TAG, description(method, flat))
        run = Run(
            uri=store,
            experiment=experiment,
            timeout_s=timeout_s,
            name=run_name,
            tags=tags,
            run_id=run_id,
            start=start or uuid.uuid4().hex,
            scores=scores,
            opened=opened,
            dataset=dataset_of(flat, tags.get("data_hash")),
        )
        tracker = cls(run, scores=scores, monitored=monitor)
        run.open({name: text_of(value) for name, value in flat.items()})
        tracker._log([(0, metrics, time.time())])
        return tracker

    @property
    def run_id(self) -> str | None:
        """Id of the run in MLflow; None as long as the store has not answered."""
        return None if self._run is None else self._run.run_id

    @property
    def experiment_id(self) -> str | None:
        """Id of the experiment in MLflow; None as long as the store has not answered."""
        return None if self._run is None else self._run.experiment_id

    @property
    def uri(self) -> str | None:
        """Address of the store, its password not shown; None if nothing is tracked."""
        return None if self._run is None else self._run.uri

    @property
    def waiting(self) -> int:
        """Number of entries that the store has not taken yet."""
        return 0 if self._run is None else self._run.waiting

    @property
    def problem(self) -> str | None:
        """Why the store does not answer; None if it does."""
        return None if self._run is None else self._run.problem

    @property
    def complete(self) -> bool:
        """Whether the store has taken everything so far; True also if nothing is tracked."""
        return self.waiting == 0 and self.problem is None

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch in one request.

        A value that is not finite would break the run's page: it is left out, with a warning the
        first time, and the metric ``nonfinite`` counts the values left out so far. On resume, a
        metric that the run already has at this epoch or later is not logged twice.

        Args:
            epoch: The epoch, the x-axis of the charts.
            metrics: Names (letters, digits, ``_-./``, blanks) and values.
        """
        load = system_metrics() if self._monitored else {}
        self._log([(epoch, self._finite(epoch, metrics) | load, time.time())])

    def log_results(self, metrics: Mapping[str, float]) -> None:
        """Log the numbers of an evaluation, at epoch 0: MLflow draws bars of them, not curves.

        On resume, numbers that have changed replace those that the run has. If there are more than
        30, only the foremost are logged: the scores of the experiment with their standard
        deviations and counts, and what belongs to a whole test set. Log the rest as an artifact.

        Args:
            metrics: Names and values, as in :meth:`log_epoch`.
        """
        if self._run is not None:
            chosen = foremost(self._finite(0, metrics), self._scores)
            self._run.send_results(chosen, time.time())

    def log_model(self, checkpoint: Path | str, *, name: str = "best") -> None:
        """Register the model of this run on the page "Models" of the UI.

        MLflow's logged model names the checkpoint among the artifacts of the run and does not copy
        it: weights are stored once.

        Args:
            checkpoint: The checkpoint, a file or folder; it is copied to the run's artifacts, to
                ``checkpoints``.
            name: Name of the model.
        """
        self.log_artifact(checkpoint, "checkpoints")
        if self._run is not None:
            self._run.send_model(name, f"checkpoints/{Path(checkpoint).name}")

    def log_history(self, records: Iterable[Mapping[str, float | None]]) -> None:
        """Log entries of a local record that are missing in the MLflow run.

        Args:
            records: The rows of :func:`famseg.tracking.read_metrics`.
        """
        points = []
        for row in records:
            given = {name: value for name, value in row.items() if name not in ("epoch", "time")}
            metrics = {name: value for name, value in given.items() if value is not None}
            if len(metrics) < len(given):
                self._nonfinite += len(given) - len(metrics)
                metrics["nonfinite"] = self._nonfinite
            time_s = row.get("time")
            epoch = int(row["epoch"] or 0)
            points.append((epoch, metrics, time.time() if time_s is None else time_s))
        self._log(points)

    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Copy a file, or a folder with all it holds, to the run.

        Args:
            path: The file or folder, as it is when the store takes it.
            folder: Folder inside the run's artifacts; None is its top.
        """
        if self._run is not None:
            self._run.send_artifact(Path(path), folder)

    def log_image(self, image: Path | str | np.ndarray[Any, Any], key: str, epoch: int) -> None:
        """Log an image that the UI shows with a slider over the epochs.

        Args:
            image: An image file, or an array ``(height, width)`` or ``(height, width, 3)`` of
                uint8, or of floats in [0, 1].
            key: Name of the series (letters, digits, ``_-./``, blanks).
            epoch: The epoch.
        """
        if self._run is not None:
            self._run.send_image(image, key, epoch)

    def log_table(self, rows: Sequence[Mapping[str, object]], path: str) -> None:
        """Log a table that the UI shows and compares over runs; replaces an older one.

        Args:
            rows: The rows; their keys are the columns.
            path: Where, in the run's artifacts; ends in ``.json``.
        """
        if self._run is not None:
            self._run.send_table(rows, path)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run.

        Args:
            tags: Names and texts.
        """
        if self._run is not None:
            self._run.send_tags(tags)

    def flush(self) -> bool:
        """Try all that waits to be sent, and wait until it was tried.

        An entry is waited for at most a minute, or ten minutes if a file is being sent.

        Returns:
            Whether the store has everything.
        """
        return self._run is None or self._run.flush()

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run and wait as :meth:`flush` does; a second call does nothing.

        Args:
            status: How it ended.
        """
        if self._run is None or self._finished:
            return
        self._finished = True
        self._run.close(status)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
        elif issubclass(kind, Exception):
            self.finish("FAILED")
        else:
            self.finish("KILLED")

    def _finite(self, epoch: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the finite values, and the number of other values so far; warn once per metric."""
        finite: dict[str, float] = {}
        for name, value in metrics.items():
            number = float(value)
            if math.isfinite(number):
                finite[name] = number
                continue
            self._nonfinite += 1
            finite["nonfinite"] = self._nonfinite
            if name not in self._warned and self._run is not None:
                _logger.warning("%s is %s in epoch %d: not sent to MLflow.", name, number, epoch)
            self._warned.add(name)
        return finite

    def _log(self, points: Sequence[Points]) -> None:
        given = [point for point in points if point[1]]
        if self._run is not None and given:
            self._run.send_metrics(given)
