"""What the tests of the command share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]

# A training of a second: small skulls, a small network.
TINY = [
    "data.subjects=8",
    "data.size=16",
    "data.spacing_mm=14",
    "model.channels=[4,4]",
    "model.strides=[2,2]",
    "model.latent=2",
    "training.epochs=2",
    "penalty.every=1",
]


def environment(folder: Path) -> dict[str, str]:
    """Return an environment with a cache of its own."""
    return {**os.environ, "FAMSEG_CACHE": str(folder / "cache"), "COLUMNS": "200"}
