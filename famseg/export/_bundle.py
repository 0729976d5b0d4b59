"""The configuration files of a MONAI bundle, which needs only MONAI to run."""

from __future__ import annotations

from importlib import metadata as installed
from typing import Any

import numpy as np

import famseg
from famseg.export._card import card
from famseg.export._source import Source

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
_ABOVE = 0.095  # free share of the grid above the head, as in training on average


def metadata(source: Source, license_text: str | None) -> dict[str, Any]:
    """Return ``configs/metadata.json`` according to MONAI's schema.

    Args:
        source: A network that predicts implants.
        license_text: The name of the license; None for that of the source.
    """
    known = card(source, "bundle", license_text)
    return {
        "schema": SCHEMA,
        "version": famseg.__version__,
        "changelog": {famseg.__version__: "exported by famseg"},
        "monai_version": installed.version("monai"),
        "pytorch_version": installed.version("torch").partition("+")[0],
        "numpy_version": installed.version("numpy"),
        "required_packages_version": {
            name: installed.version(name) for name in ("nibabel", "pytorch-ignite")
        },
        "name": source.name,
        "task": known["task"],
        "description": f"{known['task']} The network of models/model.ts returns the mean of eight "
        "predictions, and 0 in small pieces; models/model.pt contains its weights.",
        "authors": "the people who trained the model; see docs/README.md",
        "copyright": known["license"],
        "data_source": str(known["data"]),
        "data_type": "nibabel",
        "image_classes": source.preprocessing["input"],
        "pred_classes": source.preprocessing["output"],
        "eval_metrics": _metrics(known["metrics"]),
        "intended_use": known["intended_use"],
        "references": ["FAM: arXiv 2307.02337"],
        "preprocessing": dict(source.preprocessing),
        "weights_sha256": source.weights_sha256,
        "network_data_format": {
            "inputs": {"image": _tensor(source, {"0": "skull"})},
            "outputs": {"pred": _tensor(source, {"0": "probability of the implant"})},
        },
    }


def inference(source: Source) -> dict[str, Any]:
    """Return ``configs/inference.json``, which maps a NIfTI file of a skull to its implant.

    The input is oriented, resampled, cropped to its bone and placed in the frame. The result is
    written in that frame, in mm of the input's world, together with the network's input.

    Args:
        source: A network that predicts implants.
    """
    return {
        "imports": [],
        "bundle_root": ".",
        "input": "skull.nii.gz",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "cpu",
        "network": {
            "_target_": "torch.jit.load",
            "f": "$@bundle_root + '/models/model.ts'",
            "map_location": "@device",
        },
        "preprocessing": {"_target_": "Compose", "transforms": _before(source)},
        "dataset": {
            "_target_": "Dataset",
            "data": [{"image": "@input"}],
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        # One window covers the whole grid; it passes on the input's position in space.
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": source.preprocessing["grid"],
            "sw_batch_size": 1,
            "overlap": 0,
        },
        "postprocessing": {"_target_": "Compose", "transforms": _after(source)},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def at_least(threshold: float) -> float:
    """Return the smallest float32 above a threshold, since famseg uses ``>`` and MONAI ``>=``.

    Example:
        >>> at_least(0.5) > 0.5
        True
    """
    return float(np.nextafter(np.float32(threshold), np.float32(1)))


def _before(source: Source) -> list[dict[str, Any]]:
    facts = source.preprocessing
    size = facts["grid"][0]
    above = max(round(_ABOVE * size), 1)
    upside_down = {"_target_": "Flipd", "keys": "image", "spatial_axis": 2}
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "reader": "NibabelReader"},
        {"_target_": "EnsureChannelFirstd"},
        {"_target_": "Orientationd", "axcodes": facts["orientation"]},
        {"_target_": "Spacingd", "pixdim": [facts["spacing_mm"]] * 3, "mode": "bilinear"},
        {"_target_": "AsDiscreted", "threshold": facts["bone_share"]},
        {"_target_": "CropForegroundd", "source_key": "image", "allow_smaller": True},
        # The frame is relative to the top of the head, but a crop is relative to the first voxel.
        upside_down,
        {"_target_": "BorderPadd", "spatial_border": [0, 0, 0, 0, above, size]},
        {"_target_": "SpatialCropd", "roi_start": [0, 0, 0], "roi_end": [10**6, 10**6, size]},
        upside_down,
        {"_target_": "ResizeWithPadOrCropd", "spatial_size": [size] * 3},
    ]
    return [{**step, "keys": "image"} for step in steps]


def _after(source: Source) -> list[dict[str, Any]]:
    threshold = at_least(source.preprocessing["threshold"])
    save = {
        "_target_": "SaveImaged",
        "output_dir": "@output_dir",
        "output_dtype": "uint8",
        "separate_folder": False,
        "resample": False,
    }
    return [
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": threshold},
        {**save, "keys": "pred", "output_postfix": "implant"},
        {**save, "keys": "image", "output_postfix": "skull"},
    ]


def _metrics(stated: Any) -> dict[str, Any]:  # noqa: ANN401  # from a card
    if isinstance(stated, list):
        return {row["metric"]: row for row in stated}
    return stated if isinstance(stated, dict) else {"stated": stated}


def _tensor(source: Source, channels: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "segmentation" if channels["0"] == "skull" else "probabilities",
        "modality": "mask of a CT",
        "num_channels": 1,
        "spatial_shape": source.preprocessing["grid"],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": channels,
    }
