"""The documented pipeline of one's own is installed as a package and trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "tabular_regression"


def test_it_is_as_short_as_the_page_says() -> None:
    assert len((PACKAGE / "tabular_regression.py").read_text().splitlines()) < 80


@pytest.mark.nightly
@pytest.mark.slow
def test_it_installs_and_trains(tmp_path: Path) -> None:
    site, package = tmp_path / "site", tmp_path / "package"
    shutil.copytree(PACKAGE, package)  # a build leaves files beside the source
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    # Without isolation: the build would fetch setuptools from the network.
    install += ["--no-build-isolation", "--target", str(site), str(package)]
    subprocess.run(install, check=True, timeout=120)
    config = str(PACKAGE / "diabetes.yaml")
    command = [sys.executable, "-m", "famseg", "train", "--config", config, "--json"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["summary"]["test"]["negative_squared_error"]
    assert (figures["n"], figures["failed"]) == (100, 0)
    assert -0.8 < figures["mean"] < -0.3  # the mean of the targets alone has about -1
