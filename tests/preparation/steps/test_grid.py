"""Shares of bone in the voxels of a grid, against the plain way that looks at every place."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from famseg.preparation.steps._grid import BoneField, Grid, bone_field, coverage


def everywhere(field: BoneField, to_source: NDArray[np.float64], grid: Grid) -> NDArray[np.float32]:
    """Look at all places of all voxels."""
    to_index = np.linalg.inv(field.affine) @ to_source @ grid.affine
    steps = np.linalg.norm(to_index[:3, :3], axis=0)
    counts = [1 if step < 1.5 else 3 if step < 4 else 5 for step in steps]
    shares = np.zeros(grid.shape, dtype=np.float32)
    for place in np.ndindex(*counts):
        at = [(p + 0.5) / n - 0.5 for p, n in zip(place, counts, strict=True)]
        level = ndimage.affine_transform(
            field.values,
            to_index[:3, :3],
            offset=to_index[:3, :3] @ at + to_index[:3, 3],
            output_shape=grid.shape,
            output=np.float32,
            order=1,
            mode="constant",
            cval=-127,
        )
        shares += level > 0
    return shares / np.float32(np.prod(counts))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.4, 0.5, 1.1), (0.2, 0.3, 2.5)])
def test_shares_are_those_of_looking_everywhere(
    spacing_mm: tuple[float, ...], turned: bool
) -> None:
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=(60, 50, 40)), 3)
    mask = np.abs(noise) < 0.3 * np.abs(noise).max()
    mask[20:40, 20:35, 10:25] = True  # a block that holds whole voxels of the grid
    field = bone_field(mask, np.diag([*spacing_mm, 1.0]))
    to_source = np.eye(4)
    if turned:
        to_source[:3, :3] = Rotation.from_rotvec([0.3, -0.2, 0.1]).as_matrix()
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (
        -3.013,
        -2.017,
        -4.019,
    )  # no place on an edge; beyond the field on the lower side, within on the upper
    grid = Grid((40, 36, 30), affine, 29)
    shares = coverage(field, to_source, grid)
    np.testing.assert_array_equal(shares, everywhere(field, to_source, grid))
    assert 0 < (shares == 1).sum() < shares.size
    assert ((shares > 0) & (shares < 1)).any() or spacing_mm[0] == 1.0


def test_a_field_that_lies_elsewhere_has_no_share() -> None:
    field = bone_field(np.ones((3, 3, 3), dtype=bool), np.eye(4))
    away = np.eye(4)
    away[:3, 3] = 100
    assert not coverage(field, away, Grid((4, 4, 4), np.eye(4), 3)).any()
