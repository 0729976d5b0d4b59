"""Every shipped configuration is loaded, every smoke configuration is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import warm

from famseg.config import load

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ALL = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
SMOKE = [path for path in ALL if path.parts[0] == "smoke"]
# One of each pipeline, with the penalty; the rest takes the same way with other data or options.
DAILY = {"cifar10_fam", "implant_fam", "rte_fam"}  # others have tests of their own pipelines
RUN = [
    pytest.param(path, marks=() if path.stem in DAILY else pytest.mark.nightly) for path in SMOKE
]


@pytest.mark.parametrize("path", ALL, ids=str)
def test_every_configuration_loads_and_begins_with_its_command(path: Path) -> None:
    load(str(CONFIGS / path))
    first = (CONFIGS / path).read_text().splitlines()[0]
    assert first.startswith(f"# famseg train --config {path}")


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=str)
def test_every_smoke_configuration_runs(path: Path, tmp_path: Path) -> None:
    done = warm.run("-m", "famseg", "train", "--config", str(path), "--json", cwd=tmp_path)
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
@pytest.mark.nightly
def test_the_smoke_configuration_takes_real_volumes(real_data: Path, tmp_path: Path) -> None:
    root = (real_data / "skulls" / "truncated64").resolve()
    command = ["-m", "famseg", "train", "--config", "smoke/skull", "--json"]
    done = warm.run(*command, f"data.root={root}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["set1"]["skull"]["dsc"]["n"] == 13
