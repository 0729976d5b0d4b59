"""Runs the command as a user does: in a new process, in an empty folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import warm

sys.path.insert(0, str(Path(__file__).parent))

from command import Run, environment  # found through the line above


@pytest.fixture
def famseg(tmp_path: Path) -> Run:
    """Run ``famseg`` with arguments in ``tmp_path``."""

    def run(*arguments: str, cwd: Path = tmp_path) -> warm.Done:
        return warm.run("-m", "famseg", *arguments, cwd=cwd, env=environment(tmp_path))

    return run
