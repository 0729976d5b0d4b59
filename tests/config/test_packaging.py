"""The configurations are part of the package."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_package_is_in_the_wheel():
    """Packages are listed by name, since two folders are installed under a different name."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "famseg").rglob("__init__.py")
    }
    assert set(settings["packages"]) == on_disk | {"famseg._configs", "famseg._pipelines"}


def test_configurations_are_checked_without_torch_and_at_once():
    code = (
        "import sys, famseg.config, famseg.cli._config;"
        "print([m for m in ('torch', 'monai', 'mlflow', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
