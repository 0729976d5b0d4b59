"""Every shipped configuration is loaded, every smoke configuration is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from famseg.config import load

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ALL = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
SMOKE = [path for path in ALL if path.parts[0] == "smoke"]


@pytest.mark.parametrize("path", ALL, ids=str)
def test_every_configuration_loads_and_begins_with_its_command(path: Path) -> None:
    load(str(CONFIGS / path))
    first = (CONFIGS / path).read_text().splitlines()[0]
    assert first.startswith(f"# famseg train --config {path}")


@pytest.mark.slow
@pytest.mark.parametrize("path", SMOKE, ids=str)
def test_every_smoke_configuration_runs(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "famseg", "train", "--config", str(path), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / json.loads(done.stdout)["folder"]
    for name in (
        "config.yaml",
        "manifest.csv",
        "provenance.json",
        "metrics.jsonl",
        "checkpoints/best.pt",
    ):
        assert (folder / name).is_file(), name


@pytest.mark.slow
def test_the_smoke_configuration_takes_real_volumes(real_data: Path, tmp_path: Path) -> None:
    root = (real_data / "skulls" / "truncated64").resolve()
    command = [sys.executable, "-m", "famseg", "train", "--config", "smoke/skull", "--json"]
    done = subprocess.run(
        [*command, f"data.root={root}"], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["set1"]["skull"]["dsc"]["n"] == 13
