"""Opening of a trained network for an export: the module and the content of its card."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from famseg.config import pipeline_of, read
from famseg.engine import Which, open_run, processes, weights_hash
from famseg.export._modules import ClassProbability, ImplantProbability
from famseg.files import read_json
from famseg.messages import InputError
from famseg.reconstruction import BONE_SHARE, SMALLEST_PIECE, CoarseNetwork, load_network
from famseg.runs import RunFolder

_BUILTIN = "builtin"
# Entries of a card about building a network, which readers of an export do not need.
_OF_THE_NETWORK = ("format", "name", "size", "spacing_mm", "layer", "threshold", "sha256")
_LIMITS = {
    "implant": (
        "It sees a binary mask of a skull on a coarse grid: thin bone and small defects can be "
        "lost on that grid.",
        "It expects a head that stands upright in the frame that the preprocessing describes.",
        "Its result is a coarse shape on that grid, not an implant to be made: `famseg "
        "reconstruct` refines it on the voxels of the scan and fits it to the bone.",
        "On scans that differ from its training data, its metrics can be worse than stated here.",
    ),
    "classes": (
        "It predicts one of its classes for every image, even if the image shows none of them.",
        "On images that differ from its training data, its metrics can be worse than stated here.",
    ),
}


@dataclass(frozen=True, eq=False)
class Source:
    """A trained network, ready to be exported.

    Attributes:
        name: The name of the model.
        kind: The output: the probability of an ``implant`` or of ``classes``.
        module: Maps inputs to probabilities, both float32; on the CPU, in evaluation mode.
        input_name: The name of its input in ONNX: ``skull`` or ``image``.
        shape: The shape of one input, without the batch axis.
        weights_sha256: SHA-256 of the network's parameters and buffers with their names.
        preprocessing: The steps before and after the network, by name, in JSON types.
        data: The training data, in JSON types.
        metrics: Rows with metric, mean, spread and n.
        license_id: SPDX expression; None if the run's owner has stated none.
        details: Further facts, in JSON types.
    """

    name: str
    kind: Literal["implant", "classes"]
    module: nn.Module
    input_name: str
    shape: tuple[int, ...]
    weights_sha256: str
    preprocessing: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    license_id: str | None
    details: Mapping[str, Any]

    @property
    def limits(self) -> tuple[str, ...]:
        """The limitations of the network, one sentence each; first those of a model's card."""
        stated = self.details.get("limits", ())
        own = stated if isinstance(stated, list | tuple) else (stated,)
        return (*map(str, own), *_LIMITS[self.kind])

    def example(self, count: int) -> torch.Tensor:
        """Return random inputs, the same at each call, shape ``(count, *shape)``."""
        drawn = torch.rand(count, *self.shape, generator=torch.Generator().manual_seed(count))
        return (drawn < 0.2).float() if self.kind == "implant" else drawn


def open_source(run: str | Path) -> Source:
    """Open a network to be exported.

    Args:
        run: ``builtin``; a run folder of the pipelines ``skull``, ``implant`` or
            ``classification``, whose best checkpoint is taken; a checkpoint of the first two; or a
            folder with a packaged model. A classification run needs its data, which the
            normalization comes from; the others do not.

    Raises:
        InputError: If there is none, it is damaged, or of another pipeline.
    """
    config = Path(run).expanduser() / "config.yaml"
    if str(run) != _BUILTIN and config.is_file():
        pipeline = pipeline_of(read(str(config)))
        if pipeline == "classification":
            return _classifier(RunFolder(config.parent))
        if pipeline not in ("skull", "implant"):
            raise InputError(
                f"{run}: is a run of the pipeline {pipeline}, which cannot be exported. Give a run "
                "of skull, implant or classification."
            )
    return _implants(run, load_network(run))


def _implants(run: str | Path, network: CoarseNetwork) -> Source:
    packaged = "pipeline" not in network.card
    folder = Path(run).expanduser()
    folder = folder.parent.parent if folder.suffix == ".pt" else folder
    size = network.size
    stated = {k: v for k, v in network.card.items() if k not in _OF_THE_NETWORK}
    return Source(
        name=network.name,
        kind="implant",
        module=ImplantProbability(network.model.cpu().float()).eval(),
        input_name="skull",
        shape=(1, size, size, size),
        weights_sha256=weights_hash(network.model),
        preprocessing={
            "input": "binary mask of a defective skull: 1 is bone, 0 is not",
            "orientation": "RAS",
            "spacing_mm": network.spacing_mm,
            "grid": [size] * 3,
            "frame": "the head in the middle from left to right and from front to back; its "
            "topmost bone at 0.82 to 0.97 of the height of the grid",
            "bone_share": BONE_SHARE,
            "output": "probability that a voxel belongs to the implant, 0 where the skull is",
            "threshold": network.threshold,
            "threshold_rule": "a voxel belongs to the implant if its probability is above it",
            "smallest_piece": f"pieces of the implant under {SMALLEST_PIECE:g} of the largest are "
            "left out; voxels of a piece share faces, edges or corners",
            "threshold_calibrated": network.calibrated,
        },
        data=_mapping(stated.pop("data", {})) if packaged else _data(RunFolder(folder)),
        metrics=[] if packaged else _metrics(RunFolder(folder)),
        license_id="Apache-2.0" if str(run) == _BUILTIN else None,
        details=stated,
    )


def _classifier(folder: RunFolder) -> Source:
    with processes("cpu") as group:
        opened = open_run(folder, Which.best, group, overrides=["training.device=cpu"])
    # Only the pipeline can create the evaluated set, which contains the normalization.
    tests: Any = opened.experiment.tests["test"]
    mean, std = ((each.flatten() / 255).tolist() for each in (tests._mean, tests._std))
    channels, size = tests[0]["image"].shape[:2]
    return Source(
        name=folder.path.resolve().name,
        kind="classes",
        module=ClassProbability(opened.model.float(), mean, std).eval(),
        input_name="image",
        shape=(channels, size, size),
        weights_sha256=weights_hash(opened.model),
        preprocessing={
            "input": "image with channels first, values 0 to 1 (bytes divided by 255)",
            "grid": [size, size],
            "channels": channels,
            "resize": "bilinear with antialiasing, rounded to bytes",
            "normalization": "part of the network: (value - mean) / std of each channel",
            "mean": mean,
            "std": std,
            "output": "probability of each class",
            "classes": _classes(folder),
        },
        data=_data(folder),
        metrics=_metrics(folder),
        license_id=None,
        details={
            "pipeline": "classification",
            "checkpoint": opened.checkpoint.name,
            "epoch": opened.epoch,
            "model": opened.config.model.model_dump(mode="json"),  # type: ignore[attr-defined]
        },
    )


def _mapping(stated: Any) -> Mapping[str, Any]:  # noqa: ANN401  # from a card
    return stated if isinstance(stated, Mapping) else {"stated": stated}


def _data(folder: RunFolder) -> dict[str, Any]:
    """Return the facts about a run's data, without paths, which are private."""
    data: dict[str, Any] = {}
    section = read(str(folder.config)).values.get("data")
    if isinstance(section, Mapping):
        data |= {k: section[k] for k in ("kind", "name", "size", "spacing_mm") if k in section}
    if folder.manifest.is_file():
        with folder.manifest.open(encoding="utf-8", newline="") as file:
            splits = Counter(row.get("split") or "not stated" for row in csv.DictReader(file))
        data["cases"] = dict(splits)
    if folder.provenance.is_file():
        known = read_json(folder.provenance, "Leave the file out, or copy it again.")
        data |= {key: known[key] for key in ("data_hash", "commit", "seed") if key in known}
    return data


def _classes(folder: RunFolder) -> list[str]:
    """Return the names of the classes in the order of the outputs, from the manifest."""
    if not folder.manifest.is_file():
        return []
    with folder.manifest.open(encoding="utf-8", newline="") as file:
        names = {int(row["label"]): row["class"] for row in csv.DictReader(file)}
    return [names[label] for label in sorted(names)]


def _metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the means of the final evaluation with spread and n."""
    if not folder.metrics.is_file():
        return []
    values = read_json(folder.metrics, "Evaluate the run again.")
    rows = []
    for name, value in values.items():
        if re.search(r"/(n|failed)$|_(std|low|high)$", name):
            continue
        row = {"metric": name, "mean": value}
        row |= {s: values[f"{name}_{s}"] for s in ("std", "low", "high") if f"{name}_{s}" in values}
        place = name.rpartition("/")[0]
        row |= {
            count: int(values[f"{place}/{count}"])
            for count in ("n", "failed")
            if f"{place}/{count}" in values
        }
        # Numbers without a spread or n are not means over cases.
        if "n" in row and row.keys() & {"std", "low"}:
            rows.append(row)
    return rows
