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
@pytest.mark.parametrize("data", sorted({path.stem.partition("_")[0] for path in SMOKE}))
def test_every_smoke_configuration_runs(data: str, tmp_path: Path) -> None:
    paths = [path for path in SMOKE if path.stem.partition("_")[0] == data]
    command = [sys.executable, str(Path(__file__).with_name("train_several.py")), *map(str, paths)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    statuses = done.stdout.split()
    for path, status in zip(paths, statuses, strict=True):
        place = tmp_path / path.stem
        assert status == "0", f"{path}: {(place / '2.txt').read_text()}"
        folder = place / json.loads((place / "1.txt").read_text())["folder"]
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
