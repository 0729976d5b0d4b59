"""Recording of a training in its run folder and in MLflow."""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from PIL import Image

from famseg.config import to_yaml
from famseg.engine._claim import folder_name
from famseg.engine._config import RunConfig
from famseg.engine._experiment import Experiment
from famseg.engine._observer import RGBImage
from famseg.files import read_json, write_atomically, write_json
from famseg.messages import InputError
from famseg.runs import RunFolder
from famseg.tracking import (
    LocalRecord,
    Tracker,
    method_label,
    provenance,
    provenance_tags,
    read_metrics,
    resolve_uri,
    run_name,
    without_password,
)

_RUN_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


class Recorder:
    """The observer that writes the run folder and logs to MLflow.

    Args:
        folder: The run folder.
        record: Its table of epochs; None except in rank 0.
        tracker: MLflow.
    """

    def __init__(self, folder: RunFolder, record: LocalRecord | None, tracker: Tracker) -> None:
        self.folder = folder
        self.record = record
        self.tracker = tracker

    def started(self, *, epochs: int, steps: int, step: int) -> None:
        """Do nothing, since the folder was set up with the recorder."""

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        """Do nothing, since only epochs are recorded."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record an epoch."""
        if self.record is not None:
            self.record.append(epoch, metrics)
        self.tracker.log_epoch(epoch, metrics)

    def image(self, epoch: int, image: RGBImage) -> None:
        """Record an image of the validation."""
        self.folder.images.mkdir(exist_ok=True)
        path = self.folder.images / f"epoch-{epoch:05d}.png"
        content = io.BytesIO()
        Image.fromarray(image).save(content, format="PNG")
        write_atomically(path, content.getbuffer())
        self.tracker.log_image(path, "validation", epoch)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Log the result of the evaluation."""
        self.tracker.log_results(metrics)
        self.tracker.log_artifact(self.folder.evaluation, "evaluation")
        self.tracker.log_model(self.folder.checkpoint("best"))


def recorder_of(
    folder: RunFolder,
    experiment: Experiment,
    *,
    config: RunConfig,
    device: torch.device,
    weights: str | None,
    epochs: int | None,
    started_from: Mapping[str, object] | None = None,
) -> Recorder:
    """Write the facts about a run before it is trained, and return its recorder.

    Args:
        folder: The run folder.
        experiment: The experiment to train.
        config: The resolved configuration.
        device: The device of the run.
        weights: Hash of the weights that the training starts from.
        epochs: Number of epochs trained before, if the run is resumed; None for a new run.
        started_from: The checkpoint that contained the initial weights, for the provenance, or
            None.

    Raises:
        InputError: If ``tracking.json`` is damaged or the address of the store is invalid; nothing
            was written then. Or if the record of the epochs cannot be used.
    """
    # Checks come first, so that nothing has changed if one fails.
    run_id, start = _tracked_run(folder)
    uri = without_password(resolve_uri(config.tracking.uri)) if config.tracking.enabled else None
    origin = _describe(folder, experiment, config, device, weights, started_from)
    if epochs is None:
        record = LocalRecord.create(folder.path)
    else:
        record = LocalRecord.resume(folder.path, epochs)
    parameters = config.model_dump(mode="json", by_alias=True)
    method = method_label(parameters)
    identity = {"run_id": run_id, "uri": uri, "start": start, "complete": False}
    if config.tracking.enabled:
        # Before the run exists in the store, so that the mark finds it after a kill at any moment.
        write_json(folder.tracking, identity)

    def note(found: str) -> None:
        with suppress(OSError):  # if the disk is full, the mark also finds the run
            write_json(folder.tracking, identity | {"run_id": found})

    tracker = config.tracking.build(
        run_name=run_name(config.penalty.weight, config.seed, method, distinction(folder, config)),
        parameters=parameters,
        penalty_weight=config.penalty.weight,
        method=method,
        scores=(f"val/{experiment.key_metric}", *experiment.scores),
        tags={**provenance_tags(origin), "run_folder": folder.path.name},
        run_id=run_id,
        start=start,
        opened=note,
    )
    tracker.log_history(() if epochs is None else read_metrics(folder.path))
    for path in (folder.config, folder.provenance, folder.manifest):
        if path.exists():
            tracker.log_artifact(path)
    return Recorder(folder, record, tracker)


def _describe(
    folder: RunFolder,
    experiment: Experiment,
    config: RunConfig,
    device: torch.device,
    weights: str | None,
    started_from: Mapping[str, object] | None,
) -> dict[str, Any]:
    """Write configuration, provenance and manifest; return the provenance."""
    text = to_yaml(config)
    write_atomically(folder.config, text.encode())
    origin = provenance(
        config_text=text,
        seed=config.seed,
        device=str(device),
        data_hash=experiment.data_hash,
        weights_hash=weights,
    )
    if started_from is not None:
        origin["started_from"] = dict(started_from)
    write_json(folder.provenance, origin)
    experiment.write_manifest(folder.manifest)
    return origin


def distinction(folder: RunFolder, config: RunConfig) -> str:
    """Return the part of the folder's name after the plain name: differences, or a number.

    For a folder with another name, such as a trial of a sweep, it is the whole name.
    """
    plain, name = folder_name(config), folder.path.name
    return name.removeprefix(plain).replace("-", " ").strip() if name.startswith(plain) else name


def _tracked_run(folder: RunFolder) -> tuple[str | None, str]:
    """Return the MLflow run of a run folder, and the mark of the run.

    The id is None if the run does not exist yet, or if its process was killed before it recorded
    the id. If there is no mark, a new one is created.
    """
    if not folder.tracking.is_file():
        return None, uuid.uuid4().hex
    advice = "Restore it, or delete it to track the run as a new one of MLflow."
    content = read_json(folder.tracking, advice)
    run_id, start = content.get("run_id"), content.get("start") or uuid.uuid4().hex
    for key, value in (("run_id", run_id), ("start", start)):
        if value is not None and not (isinstance(value, str) and _RUN_ID.fullmatch(value)):
            raise InputError(f"{folder.tracking}: {key} is not one of MLflow. {advice}")
    return run_id, start
