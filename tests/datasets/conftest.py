"""Small skulls and files for the tests of the data sets; makes their helpers importable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))  # image_files.py and others beside the tests

from famseg.datasets import PreparedSkull, phantom
from famseg.volumes import Volume, write_volume

sys.path.insert(0, str(Path(__file__).parent))

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


@pytest.fixture
def blob() -> NDArray[np.uint8]:
    """A lopsided body in 12 x 14 x 16 voxels: no flip or swap of axes maps it onto itself."""
    mask = np.zeros((12, 14, 16), dtype=np.uint8)
    mask[2:9, 3:8, 4:12] = 1
    mask[2:4, 3:11, 4:6] = 1
    mask[8, 3, 4:14] = 1
    return mask


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write an array as a volume and return its path."""

    def write(
        array: NDArray[np.generic],
        name: str = "a.nii.gz",
        affine: NDArray[np.float64] | None = None,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(Volume(array, np.eye(4) if affine is None else affine), path)
        return path

    return write
