"""What a run writes while it goes on: its folder, and MLflow's store."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

import torch
from PIL import Image

from famseg.config import InputError, to_yaml
from famseg.config._json import read_json
from famseg.engine._config import RunConfig
from famseg.engine._experiment import Experiment, Picture
from famseg.runs import RunFolder
from famseg.tracking import (
    LocalRecord,
    Tracker,
    method_label,
    provenance,
    provenance_tags,
    read_metrics,
    run_name,
    write_atomically,
    write_json,
)

_RUN_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


class Recorder:
    """The observer that writes the run folder and feeds MLflow.

    Args:
        folder: The run folder.
        record: Its table of epochs; None in all processes but the main one.
        tracker: MLflow.
    """

    def __init__(self, folder: RunFolder, record: LocalRecord | None, tracker: Tracker) -> None:
        self.folder = folder
        self.record = record
        self.tracker = tracker

    def started(self, *, epochs: int, steps: int, step: int) -> None:
        """Do nothing: the folder was begun with the recorder."""

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        """Do nothing: epochs are recorded."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record an epoch."""
        if self.record is not None:
            self.record.append(epoch, metrics)
        self.tracker.log_epoch(epoch, metrics)
        if self.tracker.run_id is not None and not self.folder.tracking.exists():
            write_json(
                self.folder.tracking, {"run_id": self.tracker.run_id, "uri": self.tracker.uri}
            )

    def picture(self, epoch: int, picture: Picture) -> None:
        """Record a picture of the validation."""
        self.folder.pictures.mkdir(exist_ok=True)
        path = self.folder.pictures / f"epoch-{epoch:05d}.png"
        content = io.BytesIO()
        Image.fromarray(picture).save(content, format="PNG")
        write_atomically(path, content.getbuffer())
        self.tracker.log_image(path, "validation", epoch)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Track the result; at epoch 0, where MLflow draws bars instead of curves."""
        self.tracker.log_epoch(0, metrics)
        self.tracker.log_artifact(self.folder.evaluation, "evaluation")
        self.tracker.log_artifact(self.folder.checkpoint("best"), "checkpoints")


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
    """Write what is known of a run before it is trained, and return its recorder.

    Args:
        folder: The run folder.
        experiment: What is trained.
        config: The resolved configuration.
        device: Where.
        weights: Hash of the weights that the training begins from.
        epochs: How many were trained before, if the run goes on; None for a new one.
        started_from: The checkpoint that the weights are from, for the provenance; None if they
            were drawn.
    """
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
    if experiment.write_manifest is not None:
        experiment.write_manifest(folder.manifest)
    if epochs is None:
        record = LocalRecord.create(folder.path)
    else:
        record = LocalRecord.resume(folder.path, epochs)
    parameters = config.model_dump(mode="json", by_alias=True)
    method = method_label(parameters)
    tracker = config.tracking.build(
        run_name=run_name(config.penalty.weight, config.seed, method),
        parameters=parameters,
        penalty_weight=config.penalty.weight,
        method=method,
        scores=(f"val/{experiment.key_metric}", *experiment.scores),
        tags={**provenance_tags(origin), "run_folder": folder.path.name},
        run_id=_tracked_run(folder),
    )
    tracker.log_history(() if epochs is None else read_metrics(folder.path))
    tracker.log_artifact(folder.config)
    tracker.log_artifact(folder.provenance)
    if folder.manifest.exists():
        tracker.log_artifact(folder.manifest)
    return Recorder(folder, record, tracker)


def _tracked_run(folder: RunFolder) -> str | None:
    """Return the MLflow run that a run folder belongs to."""
    if not folder.tracking.is_file():
        return None
    advice = "Restore it, or delete it to track the run as a new one of MLflow."
    run_id = read_json(folder.tracking, advice).get("run_id")
    if run_id is not None and not (isinstance(run_id, str) and _RUN_ID.fullmatch(run_id)):
        raise InputError(f"{folder.tracking}: run_id is none of MLflow. {advice}")
    return run_id
