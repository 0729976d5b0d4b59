"""Run folders as far as an export looks at them, and a skull to run them on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from famseg.config import load, to_yaml
from famseg.engine import save_checkpoint
from famseg.files import write_json
from famseg.reconstruction import fit_curve, write_calibration

IMPLANT = ["data.size=16", "data.spacing_mm=14", "model.channels=[8,16]"]
SKULL = [*IMPLANT[:2], "model.channels=[4,4]", "model.strides=[2,2]"]
THRESHOLD = 0.02


def made_run(folder: Path, config_name: str, overrides: list[str]) -> Path:
    """Write a run with random weights."""
    _, config = load(config_name, overrides)
    torch.manual_seed(1)
    model = config.model.build(size=config.data.size)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    save_checkpoint(folder / "checkpoints" / "best.pt", {"model": model.state_dict(), "epoch": 3})
    return folder


def implant_run(folder: Path) -> Path:
    """Write a run of the pipeline implant that is calibrated and evaluated."""
    made_run(folder, "smoke/implant", IMPLANT)
    write_calibration(folder / "evaluation", THRESHOLD, 0.5, fit_curve([0.1, 0.9], [0.2, 0.7]))
    metrics = {"implant/dsc": 0.7, "implant/dsc_std": 0.1, "implant/n": 5, "implant/failed": 1}
    numbers = {f"test/set1/{name}": value for name, value in metrics.items()}
    write_json(folder / "evaluation" / "metrics.json", {**numbers, "test/set1/variance_ratio": 0.9})
    (folder / "manifest.csv").write_text("subject,file,sha256,split\na,/home/x/a.nii,0,train\n")
    return folder


def skull(size: int = 16) -> NDArray[np.bool_]:
    """Return an ellipsoid's shell with a hole, off the middle of the grid."""
    places = np.indices((size,) * 3) / (size - 1) * 2 - 1
    radius = np.linalg.norm((places - [[[[0.1]]], [[[-0.1]]], [[[0.0]]]]) / [[[[0.7]]]], axis=0)
    return (radius > 0.75) & (radius < 1.05) & ~((places[0] > 0.3) & (places[2] > 0.3))
