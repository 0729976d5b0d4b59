"""Small skulls and files for tests of the data sets; makes their helpers importable."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from volume_files import blob, save  # noqa: F401 -- fixtures

from famseg.datasets import PreparedSkull, phantom

sys.path.insert(0, str(Path(__file__).parent))  # image_files.py and other helpers

SPACING_MM = 7.0  # 32 voxels cover the phantom's field of view


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAMSEG_CACHE", str(tmp_path / "own-cache"))


@pytest.fixture(scope="session")
def skull() -> NDArray[np.uint8]:
    """A phantom of 64 voxels of 3.5 mm; not to be written to."""
    mask = phantom(0, 0)
    mask.setflags(write=False)
    return mask


@pytest.fixture(scope="session")
def skulls() -> list[PreparedSkull]:
    """Four phantoms of 32 voxels."""
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    return [PreparedSkull(f"s{i}", phantom(i, 0, 32), affine) for i in range(4)]
