"""The benchmark of the penalty runs to its end and shows everybody who takes part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "flatness.py"
SHOWN = [
    "plain step",
    "FAM, closed form",
    "FAM, default: mean over the steps",
    "FAM, noise",
    "SAM",
    "naive double backward",
    "torch.func.hessian",
    "curvlinops",
]


@pytest.mark.slow
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
    text = page.read_text()
    assert [name for name in SHOWN if name not in text] == []
    found = json.loads(page.with_suffix(".json").read_text())
    plain, default = found["autoencoder"][:2]
    assert plain["ratio"][0] == 1
    assert default["ratio"][3] == 2  # rounds
    assert default["memory"][0] > 0
