"""The configurations travel with the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("famseg", "pipelines", "configs", "pyproject.toml", "README.md", "LICENSE")


def environment(*folders: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}


def test_every_package_is_in_the_wheel():
    """Packages are listed by name, since configs/ is one of them under another name."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("famseg", "pipelines")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert set(settings["packages"]) == on_disk | {"famseg._configs"}


@pytest.mark.slow
def test_a_wheel_holds_the_configurations_and_finds_them_from_any_folder(tmp_path):
    pytest.importorskip("setuptools", reason="building a wheel needs setuptools")
    source, site, elsewhere = tmp_path / "source", tmp_path / "site", tmp_path / "elsewhere"
    for folder in (source, site, elsewhere):
        folder.mkdir()
    for part in PARTS:
        path = ROOT / part
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / part)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)

    expected = sorted(
        path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")
    )
    shipped = site / "famseg" / "_configs"
    assert sorted(path.relative_to(shipped) for path in shipped.rglob("*.yaml")) == expected
    assert (site / "famseg" / "py.typed").is_file()

    find = "import famseg.config as c; print(c.find_config('configs/skull.yaml'))"
    found = subprocess.run(
        [sys.executable, "-c", find],
        cwd=elsewhere,
        env=environment(site),
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(found.stdout.strip()) == shipped / "skull.yaml"


def test_configurations_are_checked_without_torch_and_at_once():
    code = (
        "import sys, famseg.config, famseg.cli._config;"
        "print([m for m in ('torch', 'monai', 'mlflow', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
