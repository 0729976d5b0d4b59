"""Effects of importing famseg on a process, and its public names."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import famseg
import famseg.flatness

ROOT = Path(__file__).resolve().parents[1]
# Not for `import famseg; famseg.cli`: the command is a program, files are for famseg itself.
NO_LIBRARY = {"cli", "files", "_configs", "_pipelines"}
TELEMETRY = """
import famseg
import mlflow, huggingface_hub.constants
from mlflow.telemetry import get_telemetry_client
print(get_telemetry_client(), huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY)
"""
LOADED = """
import json, sys
import famseg
dir(famseg)
cheap = [name for name in sys.modules if name.partition(".")[0] in ("famseg", "torch", "numpy")]
report = famseg.flatness.report.__module__
from famseg import FAM
print(json.dumps([cheap, report, FAM.__module__, "lazy_loader" in sys.modules]))
"""


@pytest.mark.slow
def test_nothing_is_reported_to_anybody() -> None:
    environment = {k: v for k, v in os.environ.items() if "TELEMETRY" not in k and k != "CI"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TELEMETRY],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["None", "True"]


@pytest.mark.slow
def test_what_is_used_first_is_loaded_then() -> None:
    """Without lazy_loader, and without torch until a name of famseg.flatness is used."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    cheap, report, fam, lazy_loader = json.loads(done.stdout)
    assert sorted(cheap) == ["famseg"]
    assert (report, fam) == ("famseg.flatness._measurement._report", "famseg.flatness._fam")
    assert not lazy_loader


def test_its_names_are_fam_and_the_sub_packages() -> None:
    packages = {path.parent.name for path in (ROOT / "famseg").glob("*/__init__.py")}
    assert dir(famseg) == sorted(["FAM", "__version__", *(packages - NO_LIBRARY)])
    assert len(dir(famseg)) < 25


def test_each_name_is_what_it_says() -> None:
    assert famseg.FAM is famseg.flatness.FAM
    for name in set(famseg.__all__) - {"FAM", "__version__"}:
        assert getattr(famseg, name) is sys.modules[f"famseg.{name}"]


def test_a_type_checker_knows_the_same_names() -> None:
    stub = ast.parse((ROOT / "famseg/__init__.pyi").read_text(encoding="utf-8"))
    imported = {
        alias.asname
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*imported, "__version__"} == set(famseg.__all__)


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match=r"^module 'famseg' has no attribute 'flatnes'$"):
        famseg.flatnes  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'flatnes' from 'famseg'"):
        from famseg import flatnes  # noqa: F401
