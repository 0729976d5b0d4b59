"""The wheel: what is in it, the same bytes twice, and a training with nothing else around."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from tiny import TINY

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("famseg", "pipelines", "configs", "pyproject.toml", "README.md", "LICENSE")
BUILD = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"

pytestmark = pytest.mark.slow


def build(folder: Path, modified_s: int) -> Path:
    """Build the wheel of a copy of the sources, checked out at another time."""
    folder.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile
        copy(ROOT / part, folder / part)
    for path in folder.rglob("*"):
        os.utime(path, (modified_s, modified_s))
    subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=folder,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1767225600"},
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", reason="building a wheel needs setuptools")
    return build(tmp_path_factory.mktemp("wheel") / "source", 1_000_000_000)


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; its dependencies are borrowed from this one."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = folder.glob("lib/python3.*/site-packages")
    # A line of a path file is searched after the folder that it lies in, and no path file of that
    # other folder is read: an installation of famseg from its sources there is not seen.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    hidden = ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**environment, "FAMSEG_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_it_holds_famseg_alone(wheel: Path) -> None:
    """No library of others, whose licence would then be the wheel's."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "famseg",
        "pipelines",
        "famseg-0.1.0.dist-info",
    }
    kinds = {Path(name).suffix for name in names if ".dist-info/" not in name}
    assert kinds == {".py", ".pyi", ".typed", ".yaml"}
    assert wheel.name == "famseg-0.1.0-py3-none-any.whl"


def test_it_holds_every_configuration(wheel: Path) -> None:
    shipped = "famseg/_configs/"
    with zipfile.ZipFile(wheel) as archive:
        found = {name.removeprefix(shipped) for name in archive.namelist() if shipped in name}
    there = {str(path.relative_to(ROOT / "configs")) for path in ROOT.glob("configs/**/*.yaml")}
    assert found == there


def test_the_same_sources_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "again", 1_500_000_000)
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, again))
    assert first == second


def test_it_trains_in_an_empty_folder(clean: Path, tmp_path: Path) -> None:
    where = run(
        clean / "bin" / "python", "-c", "import famseg; print(famseg.__file__)", folder=tmp_path
    )
    assert where.stdout.startswith(str(clean)), where.stderr
    train = ["train", "--config", "skull.yaml", *TINY, "training.epochs=1"]
    done = run(clean / "bin" / "famseg", *train, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (found,) = (tmp_path / "runs").iterdir()
    for name in ("config.yaml", "checkpoints/best.pt", "evaluation/cases.csv"):
        assert (found / name).is_file(), name
    assert (tmp_path / "mlflow.db").is_file()
