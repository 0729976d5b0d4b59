"""The penalty benchmark completes and shows all contestants."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "flatness.py"
STEPS = [
    "plain step",
    "FAM, default: mean over the steps",
    "FAM, noise",
    "FAM, noise both ways",
    "FAM, penalized step on a quarter",
    "FAM, penalized step on all samples",
    "FAM, Gauss-Newton on all",
    "FAM, columns (exact) on all",
    "SAM",
    "naive double backward",
]
GROWTH = ["plain step", "closed form", "hutchinson, per sample", "hutchinson, per batch", "noise"]
OTHERS = ["torch.func.hessian, contracted", "curvlinops, Hutchinson, 20 products"]
HEAD = ["famseg closed_form", "famseg columns", "famseg hutchinson"]
MIDDLE = ["famseg columns", "famseg hutchinson", "famseg finite_difference"]
PEERS = [*HEAD, "famseg exact", *OTHERS, *MIDDLE, *OTHERS]


@pytest.mark.slow
@pytest.mark.nightly
def test_a_quick_run_shows_every_contestant(tmp_path):
    page = tmp_path / "flatness.md"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--out", str(page)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text, found = page.read_text(), json.loads(page.with_suffix(".json").read_text())
    # Names are searched for in rows: on the page they also occur in text and in the versions.
    assert [row["name"] for row in found["resnet"]] == ["plain step", "FAM, closed form", "SAM"]
    assert [row["name"] for row in found["autoencoder"]] == STEPS
    assert [row["estimator"] for row in found["growth"]] == [*GROWTH, "torch.func.hessian"] * 6
    assert [row["way"] for row in found["peers"]] == PEERS
    assert [name for name in (*STEPS, *PEERS) if f"| {name} |" not in text] == []
    draws = [row["noise"] for row in found["peers"] if row["way"] == "famseg hutchinson"]
    assert all(noise > 0 for noise in draws)  # not always the same draw
    plain, default = found["autoencoder"][:2]
    assert plain["ratio"][3] > default["ratio"][3] == 2  # rounds
    assert default["memory"][0] > 0
