"""Phantom skulls, CT series and miniature collections for the tests of the preparation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from famseg.datasets import phantom
from famseg.volumes import Volume, write_volume

SKULL_SIZE, SKULL_SPACING_MM = 32, 7.0


@pytest.fixture(scope="session")
def skull() -> NDArray[np.uint8]:
    """A phantom of 32 voxels of 7 mm, axes to the right, front and top; not to be written to."""
    mask = phantom(0, 0, SKULL_SIZE)
    mask.setflags(write=False)
    return mask


@pytest.fixture(scope="session")
def holed(skull: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The phantom with a hole at the top, and what was cut out of it."""
    hole = np.zeros_like(skull)
    hole[10:22, 10:22, 22:] = 1
    return skull * (1 - hole), skull * hole


@pytest.fixture(scope="session")
def affine() -> NDArray[np.float64]:
    """RAS+ affine of the phantom."""
    matrix = np.diag([SKULL_SPACING_MM] * 3 + [1.0])
    matrix[:3, 3] = (-110.0, -105.0, 20.0)
    return matrix


@pytest.fixture
def save(affine: NDArray[np.float64]) -> Callable[..., Path]:
    """Write an array as a volume; folders are made."""

    def write(
        path: Path, array: NDArray[np.generic], matrix: NDArray[np.float64] | None = None
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(Volume(array, affine if matrix is None else matrix), path)
        return path

    return write
