"""Skull training on a GPU: the smoke configuration, in every precision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.cuda, pytest.mark.slow]


def train(folder: Path, device: str, precision: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the smoke configuration; return its first epoch's numbers and its provenance.

    In a new process: CUDA cannot be initialized in a fork of a process that has queried it.
    """
    folder.mkdir()
    settings = [f"training.device={device}", f"training.precision={precision}"]
    done = subprocess.run(
        [sys.executable, "-m", "famseg", "train", "--config", "smoke/skull", "--json", *settings],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    run = folder / json.loads(done.stdout)["folder"]
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    first = (run / "metrics.jsonl").read_text().splitlines()[0]
    return json.loads(first), json.loads((run / "provenance.json").read_text())


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("monai")
    return train(tmp_path_factory.mktemp("cpu") / "run", "cpu", "fp32")[0]


# The loss is a mean of Dice losses near 0.9; TF32 and half precision have 8 to 11 bits.
@pytest.mark.parametrize(("precision", "rel"), [("fp32", 2e-3), ("bf16", 1e-2), ("fp16", 1e-2)])
def test_the_skull_smoke_configuration_trains(wanted, tmp_path, device, precision, rel):
    found, provenance = train(tmp_path / "run", device, precision)
    assert provenance["machine"]["device"].startswith(device)
    assert found["train/steps"] == wanted["train/steps"]
    assert found["train/loss"] == pytest.approx(wanted["train/loss"], rel=rel)
    assert found["train/penalty"] > 0
