"""Masks that tests of metrics and of the evaluation share, as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import scipy.ndimage as ndi

Mask = npt.NDArray[np.bool_]


@pytest.fixture(scope="session")
def blob() -> Callable[..., Mask]:
    """Make a smooth random blob, which touches the border of its grid."""

    def make(seed: int, shape: tuple[int, int, int] = (17, 14, 19)) -> Mask:
        noise = np.random.default_rng(seed).normal(size=shape)
        mask: Mask = ndi.gaussian_filter(noise, 2.0) > 0.03
        return mask

    return make


@pytest.fixture(scope="session")
def ball() -> Callable[..., Mask]:
    """Make a ball around the middle of a grid, its radius in mm."""

    def make(
        radius_mm: float, size: int = 40, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ) -> Mask:
        axes = [(np.arange(size) - (size - 1) / 2) * length for length in spacing_mm]
        squares = sum(part**2 for part in np.meshgrid(*axes, indexing="ij"))
        mask: Mask = squares <= radius_mm**2
        return mask

    return make


@pytest.fixture
def box() -> Mask:
    """A box of 6 x 5 x 4 voxels within 20^3."""
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[4:10, 4:9, 4:8] = True
    return mask
