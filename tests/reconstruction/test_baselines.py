from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from famseg.datasets import phantom
from famseg.evaluation.skulls import SOURCES
from famseg.metrics import dice
from famseg.reconstruction import (
    mean_baseline,
    mirror,
    mirror_baseline,
    nearest_baseline,
    standard_baselines,
    thin_plate,
)

AFFINE = np.diag([3.5, 3.5, 3.5, 1.0])


@pytest.fixture(scope="module")
def skull():
    return phantom(subject=3, seed=0) > 0


@pytest.fixture(scope="module")
def outline(skull):
    """A box over the right side of the vault."""
    box = np.zeros_like(skull)
    box[38:60, 20:44, 40:60] = True
    assert 100 < np.count_nonzero(box & skull) < np.count_nonzero(skull) / 4
    return box


def test_the_mean_skull_is_what_it_is(skull, outline):
    assert np.array_equal(mean_baseline(skull)(skull & ~outline, outline, AFFINE), skull)


def test_the_nearest_skull_is_the_one_that_agrees_outside_the_outline(skull, outline):
    # Without the outline the second one would win: it has the same hole.
    others = [phantom(subject=number, seed=0) > 0 for number in (5, 6)]
    holed = ndimage.shift(skull.astype(float), (0, 1, 0), order=0) > 0.5
    baseline = nearest_baseline([others[0], skull, holed & ~outline, others[1]])
    assert np.array_equal(baseline(skull & ~outline, outline, AFFINE), skull)
    with pytest.raises(ValueError, match="at least one skull"):
        nearest_baseline([])


@pytest.mark.parametrize("axis", [0, 2])
def test_the_mirror_finds_the_plane_of_a_tilted_head(skull, outline, axis):
    head = np.maximum(skull, skull[::-1])
    tilted = _tilted(head)
    box = _tilted(outline)
    implant = tilted & box
    affine = AFFINE[:, [0, 1, 2, 3]]
    if axis == 2:  # stored with left to right along the last axis
        tilted, box, implant = (np.moveaxis(each, 0, 2) for each in (tilted, box, implant))
        affine = AFFINE[:, [1, 2, 0, 3]]
    found = mirror(tilted & ~box, affine) & box
    plain = np.flip(tilted & ~box, axis) & box
    assert dice(found, implant) > 0.75
    assert dice(found, implant) > dice(plain, implant) + 0.2


def test_the_mirror_of_nothing_is_nothing(skull):
    empty = np.zeros_like(skull)
    assert not mirror(empty, AFFINE).any()


def test_the_mirror_is_kept_for_the_skull_it_is_of(skull, outline):
    baseline, other = mirror_baseline(), phantom(subject=4, seed=0) > 0
    first = baseline(skull & ~outline, outline, AFFINE)
    assert baseline(skull & ~outline, ~outline, AFFINE) is first
    assert not np.array_equal(baseline(other, outline, AFFINE), first)
    assert np.array_equal(baseline(skull & ~outline, outline, AFFINE), first)


def test_a_thin_plate_needs_walls(skull, outline):
    found = thin_plate(skull & ~outline, outline, AFFINE) & outline
    assert dice(found, skull & outline) > 0.4
    nowhere = np.zeros_like(skull)
    nowhere[1:4, 1:4, 1:4] = True
    assert not thin_plate(skull, nowhere, AFFINE).any()


def test_the_standard_baselines_are_those_that_evaluations_know(skull):
    baselines = standard_baselines([skull], skull)
    known = {name.removeprefix("oracle_") for name in SOURCES if name.startswith("oracle_")}
    assert set(baselines) == known


def _tilted(mask):
    """Turn by 8 degrees and shift by two voxels to a side."""
    turned = ndimage.rotate(mask.astype(float), 8, axes=(0, 2), reshape=False, order=1)
    return ndimage.shift(turned, (2, 0, 0), order=1) > 0.5
