from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made import implant_run  # found through the line above


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of the pipeline implant."""
    return implant_run(tmp_path_factory.mktemp("made") / "run")
