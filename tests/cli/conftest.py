"""Runs the command as a user does: in a process of its own, in an empty folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from command import Run, environment  # found through the line above


@pytest.fixture
def famseg(tmp_path: Path) -> Run:
    """Run ``famseg`` with arguments in ``tmp_path``."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        settings = {"cwd": tmp_path, "timeout": 250, "env": environment(tmp_path)} | options
        return subprocess.run(
            [sys.executable, "-m", "famseg", *arguments],
            capture_output=True,
            text=True,
            check=False,
            **settings,
        )

    return run
