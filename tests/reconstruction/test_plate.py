from __future__ import annotations

import numpy as np
import pytest
import shells
from scipy.spatial.transform import Rotation

from famseg.datasets import RegionDefect, inject, phantom
from famseg.messages import InputError
from famseg.metrics import border_dice, dice
from famseg.reconstruction import plate

TILTED = Rotation.from_euler("xyz", [8, -6, 12], degrees=True).as_matrix()
FLIPPED = np.diag([-1.0, -1.0, 1.0])
SWAPPED = np.eye(3)[:, [2, 0, 1]]


def case(spacing, turn=None, toward=(0.9, 0.2, 0.6), deg=25.0):
    shape, affine = shells.grid(spacing, turn)
    where = shells.points(shape, affine)
    whole, region = shells.shell(where), shells.hole(where, toward, deg)
    return whole & ~region, affine, region, whole & region


@pytest.mark.parametrize(
    ("spacing", "turn"),
    [
        ((2.0, 2.0, 3.5), None),
        ((3.5, 3.5, 3.5), None),
        ((3.0, 3.0, 3.0), TILTED),
        ((3.0, 2.5, 3.5), FLIPPED),
        ((3.0, 3.0, 3.0), SWAPPED),
    ],
    ids=["slices", "coarse", "oblique", "flipped", "swapped"],
)
def test_the_wall_of_an_ellipsoid_is_continued_on_any_grid(spacing, turn):
    skull, affine, region, implant = case(spacing, turn)
    found = plate(skull, affine, region)
    assert not (found & skull).any()
    assert dice(found, implant) > 0.88
    assert border_dice(found, implant, skull, spacing) > 0.88


def test_both_pieces_of_a_defect_are_filled():
    skull, affine, left, one = case((2.5,) * 3, toward=(-1, 0, 0.5), deg=18)
    _, _, right, other = case((2.5,) * 3, toward=(1, 0, 0.5), deg=18)
    skull = skull & ~right
    found = plate(skull, affine, left | right)
    for part, implant in ((left, one), (right, other)):
        assert dice(found & part, implant) > 0.9


def test_an_outline_need_not_be_exact():
    skull, affine, region, implant = case((2.5,) * 3)
    where = shells.points(skull.shape, affine)
    wide = shells.hole(where, (0.9, 0.2, 0.6), 28)  # 4 mm of sound bone all around
    found = plate(skull, affine, wide)
    assert dice(found, implant) > 0.92
    assert np.count_nonzero(found & ~region) < 0.02 * np.count_nonzero(implant)  # no film on bone


def test_a_defect_that_the_scan_cuts_off_is_refused():
    skull, affine, region, _ = case((3.0,) * 3, toward=(0, 0, 1), deg=35)
    cut = slice(0, int(np.flatnonzero(skull.any(axis=(0, 1)))[-1]) - 3)
    with pytest.raises(InputError, match=r"reaches the superior border of the scan, which cuts"):
        plate(skull[:, :, cut], affine, region[:, :, cut])


def test_masks_that_do_not_fit_together_are_refused():
    skull, affine, region, _ = case((3.5,) * 3)
    with pytest.raises(InputError, match=r"outline has the shape \(2, 2, 2\), the skull"):
        plate(skull, affine, np.ones((2, 2, 2), dtype=bool))
    with pytest.raises(InputError, match="the mask is empty, there is no skull"):
        plate(np.zeros_like(skull), affine, region)
    with pytest.raises(InputError, match="affine is singular"):
        plate(skull, np.diag([1.0, 1, 0, 1]), region)


def test_an_empty_outline_leaves_nothing_to_do():
    skull, affine, region, _ = case((3.5,) * 3)
    assert not plate(skull, affine, np.zeros_like(region)).any()


@pytest.mark.slow
def test_a_phantom_is_completed():
    whole = phantom(subject=3, seed=0, size=128)
    skull, region = inject(whole, RegionDefect("bilateral"), (1.75,) * 3, np.random.default_rng(0))
    implant = whole.astype(bool) & ~skull.astype(bool)
    found = plate(skull.astype(bool), np.diag([1.75, 1.75, 1.75, 1]), region)
    assert dice(found, implant) > 0.9
