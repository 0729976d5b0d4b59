"""Fixtures for every test: one thread, real data if available."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

# On a loaded machine two torch threads are slower than one; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "Agg")

# nohup ignores it, also for the programs that tests start.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# As in the command: MONAI is imported in a third of the time.
from famseg import _libraries

_libraries.install()

ROOT = Path(__file__).resolve().parents[1]
# Not this folder itself: transformers would mistake tests/datasets for the package `datasets`.
sys.path.insert(0, str(Path(__file__).parent / "support"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a GPU without one; see tests/cuda/conftest.py for a rehearsal."""
    if item.get_closest_marker("cuda") and os.environ.get("FAMSEG_TEST_DEVICE", "cuda") == "cuda":
        import torch  # not needed by most tests of the configuration

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _environment_ends_with_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets them for its own process, which in a test continues with other tests."""
    for name in ("PYTHONSAFEPATH", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; the test is skipped without one."""
    folder = Path(os.environ.get("FAMSEG_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set FAMSEG_REAL_DATA to the folder that holds it")
    return folder
