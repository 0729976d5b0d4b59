"""What the tests of the command share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import warm

Run = Callable[..., warm.Done]


def environment(folder: Path) -> dict[str, str]:
    """Return an environment with a cache of its own."""
    return {**os.environ, "FAMSEG_CACHE": str(folder / "cache"), "COLUMNS": "200"}
