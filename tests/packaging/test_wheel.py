"""The wheel: contents, reproducible bytes, and trainings in clean environments.

One environment has its dependencies and an empty folder, the other only torch and numpy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny import TINY

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("famseg", "pipelines", "configs", "pyproject.toml", "README.md", "LICENSE")
BUILD = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"

FLATNESS_ALONE = """
import json
import sys
from importlib.metadata import distributions

import torch
from torch import nn

import famseg
from famseg import FAM

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
inputs, targets = torch.randn(32, 4), torch.randint(3, (32,))
objective = FAM(model, layer="0", loss=nn.CrossEntropyLoss(), weight=0.1)
objective(inputs, targets)
traced = "torch._dynamo" in sys.modules  # which optimizers import
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
before = model[0].weight.detach().clone()
for _ in range(3):
    optimizer.zero_grad()
    objective(inputs, targets).total.backward()
    optimizer.step()
measured = objective.measure(inputs, targets)
report = famseg.flatness.report(model, (inputs, targets), nn.CrossEntropyLoss(), probes=4)
missing = {}
for name, use in {
    "plot": lambda: report.plot("report.png"),
    "datasets": lambda: famseg.datasets,
    "trainer": lambda: __import__("famseg.adapters.lightning"),
}.items():
    try:
        use()
    except Exception as error:
        missing[name] = f"{type(error).__name__}: {error}"
print(json.dumps({
    "distributions": sorted({found.metadata["Name"] for found in distributions()}),
    "file": famseg.__file__,
    "traced": traced,
    "moved": (model[0].weight - before).abs().max().item(),
    "kappa": measured.kappa.item(),
    "layers": [row.name for row in report.rows],
    "table": str(report),
    "missing": missing,
}))
"""

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


def virtual_environment(folder: Path, wheel: Path) -> Path:
    """Create one that contains only the wheel; return its site-packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = folder.glob("lib/python3.*/site-packages")
    return site


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; its dependencies are borrowed from this one."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    site = virtual_environment(folder, wheel)
    # A line of a path file is searched after the folder that it lies in, and no path file of that
    # other folder is read: an installation of famseg from its sources there is not seen.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def needed(*names: str) -> dict[str, Distribution]:
    """Find distributions of this environment and their requirements, by canonical name."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found[name] = distribution(name)
        requirements = map(Requirement, found[name].requires or ())
        waiting += [
            requirement.name
            for requirement in requirements
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return found


@pytest.fixture(scope="module")
def torch_alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, torch, numpy and what these two require."""
    folder = tmp_path_factory.mktemp("torch-alone") / "venv"
    site = virtual_environment(folder, wheel)
    for borrowed in needed("torch", "numpy").values():
        # ".." is what lies outside: commands and manuals. __pycache__ is of modules without folder.
        tops = {path.parts[0] for path in borrowed.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (site / top).exists():  # nvidia/ is a folder of several distributions
                (site / top).symlink_to(Path(str(borrowed.locate_file(top))))
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
    """No third-party library except the viewer of reports, with its licence."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "famseg",
        "famseg-0.1.0.dist-info",
    }
    data = ("famseg/reporting/page/", "famseg/reporting/vendor/", "famseg/reconstruction/builtin/")
    inside = [name for name in names if ".dist-info/" not in name]
    kinds = {Path(name).suffix for name in inside if not name.startswith(data)}
    assert kinds == {".py", ".pyi", ".typed", ".yaml"}
    shipped = {Path(name).name for name in inside if name.startswith(data)} - {"niivue.umd.js"}
    assert shipped == {
        *("page.css", "page.html", "page.js", "viewer.js", "LICENSE.niivue.txt", "niivue.json"),
        *("card.json", "MODEL_CARD.md", "weights.pt"),
    }
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


def test_flatness_works_beside_torch_and_numpy_alone(torch_alone: Path, tmp_path: Path) -> None:
    """As after `pip install --no-deps famseg` in an environment that already has torch."""
    script = tmp_path / "alone.py"
    script.write_text(FLATNESS_ALONE, encoding="utf-8")
    done = run(torch_alone / "bin" / "python", "-W", "error", script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {*map(canonicalize_name, found["distributions"])} == {
        "famseg",
        *needed("torch", "numpy"),
    }
    assert found["file"].startswith(str(torch_alone))
    assert not found["traced"]
    assert found["moved"] > 0
    assert found["kappa"] > 0
    assert found["layers"] == ["0", "2"]
    assert "kappa" in found["table"]
    assert found["missing"] == {
        "plot": "FlatnessError: a plot needs matplotlib, which is not installed. "
        "Run: pip install matplotlib",
        "datasets": "ModuleNotFoundError: famseg.datasets needs lazy_loader, which is not "
        "installed. Run: pip install famseg",
        "trainer": "ModuleNotFoundError: No module named 'pytorch_lightning'",
    }
