"""Shared helpers for tests of the command."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import warm

Run = Callable[..., warm.Done]


def environment(folder: Path) -> dict[str, str]:
    """Return an environment with its own cache."""
    return {**os.environ, "FAMSEG_CACHE": str(folder / "cache"), "COLUMNS": "200"}
