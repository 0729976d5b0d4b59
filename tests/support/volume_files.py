"""Small volumes and their files, as fixtures for the tests of volumes and data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from famseg.volumes import Volume, write_volume


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
