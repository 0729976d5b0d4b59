"""What the tests of the command share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(folder: Path) -> dict[str, str]:
    """Return an environment with a cache of its own."""
    return {**os.environ, "FAMSEG_CACHE": str(folder / "cache"), "COLUMNS": "200"}
