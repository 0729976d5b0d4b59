from __future__ import annotations

import numpy as np
import pytest
import shells
from scipy import ndimage

from famseg.messages import InputError
from famseg.metrics import border_dice, dice
from famseg.reconstruction import plate, refine

SPACING = (2.5, 2.5, 2.5)
TOWARD = (0.9, 0.2, 0.6)


def case(toward=TOWARD, deg=28.0, dent_mm=0.0):
    """Return skull, affine, implant; the vault may be dented in the middle of the defect."""
    shape, affine = shells.grid(SPACING)
    where = shells.points(shape, affine)
    off = np.linalg.norm(where / np.linalg.norm(where, axis=-1, keepdims=True), axis=-1)
    ahead = np.array(toward) / np.linalg.norm(toward)
    cosine = (where @ ahead) / np.maximum(np.linalg.norm(where, axis=-1), 1e-9)
    deep = dent_mm * np.clip((cosine - 0.9) / 0.1, 0, 1) * off
    whole = shells.shell(where + deep[..., None] * ahead)
    region = shells.hole(where, toward, deg)
    return whole & ~region, affine, whole & region


def blurred(implant, sigma_mm=3.0, shift=(0, 0, 0)):
    """Return what a coarse network would say."""
    moved = ndimage.shift(implant.astype(np.float32), shift, order=1)
    return np.clip(ndimage.gaussian_filter(moved, sigma_mm / SPACING[0]), 0, 1)


def test_a_coarse_prediction_is_sharpened_to_the_edge_of_the_bone():
    skull, affine, implant = case()
    coarse = blurred(implant)
    rough = (coarse >= 0.4) & ~skull
    found = refine(skull, affine, coarse, threshold=0.4)
    assert found.method == ("residual thin plate",)
    assert not found.warnings
    assert not (found.implant & skull).any()
    assert dice(found.implant, implant) > max(0.92, dice(rough, implant) + 0.03)
    assert border_dice(found.implant, implant, skull, SPACING) > 0.92
    assert (implant & ~found.outline).sum() < 0.02 * implant.sum()


def test_the_networks_surface_counts_where_bone_says_nothing():
    skull, affine, implant = case(dent_mm=6.0)
    coarse = blurred(implant)
    found = refine(skull, affine, coarse, threshold=0.4)
    assert dice(found.implant, implant) > 0.65  # half of the dent: it may be wrong
    alone = plate(skull, affine, found.outline)
    assert dice(found.implant, implant) > dice(alone, implant) + 0.05


def test_what_a_network_is_off_all_over_is_taken_from_the_bone():
    skull, affine, implant = case()
    coarse = blurred(implant, shift=(0.7, 0.15, 0.45))  # 2 mm outwards
    rough = (coarse >= 0.4) & ~skull
    found = refine(skull, affine, coarse, threshold=0.4)
    assert dice(rough, implant) < 0.85
    assert dice(found.implant, implant) > 0.9


def test_where_the_wall_is_not_a_single_layer_the_networks_answer_is_kept():
    skull, affine, implant = case()
    where = shells.points(skull.shape, affine)
    ahead = np.array(TOWARD) / np.linalg.norm(TOWARD)
    along = where @ ahead
    column = shells.hole(where, TOWARD, 16) & (along > 25) & (along < 76)
    coarse = blurred(implant | column, sigma_mm=1.0)
    found = refine(skull, affine, coarse, threshold=0.5)
    assert found.method == ("coarse",)
    assert "Piece 1" in found.warnings[0]
    assert "coarse surface was kept" in found.warnings[0]
    assert dice(found.implant, implant | column) > 0.9
    assert not (found.implant & skull).any()


def test_near_the_bone_the_plate_counts_where_a_network_is_wrong():
    skull, affine, implant = case()
    _, _, dented = case(dent_mm=6.0)
    found = refine(skull, affine, blurred(dented), threshold=0.4)
    guided = (blurred(dented) >= 0.4) & ~skull
    assert dice(found.implant, implant) > dice(guided, implant) + 0.1


def test_the_other_side_shows_where_the_wall_bends_and_how_thick_it_is():
    skull, affine, implant = case(dent_mm=6.0)
    # The head leans 5 mm forwards on its other side, which lies a voxel farther out, too.
    other = np.roll(np.flip(skull | implant, 0), (-1, 2), (0, 1))  # the grid is symmetric
    turn = np.diag([-1.0, 1.0, 1.0, 1.0])
    turn[1, 3] = 2 * SPACING[1]
    left = np.indices(skull.shape)[0] < skull.shape[0] // 2
    skull = np.where(left, other, skull)
    coarse = blurred(case()[2])  # the network knows of no dent
    found = refine(skull, affine, coarse, threshold=0.4, other=lambda: turn)
    without = refine(skull, affine, coarse, threshold=0.4)
    assert dice(found.implant, implant) > dice(without.implant, implant) + 0.16


def test_the_other_side_does_not_count_where_it_has_no_wall_itself():
    skull, affine, implant = case()
    dented = case(dent_mm=8.0, deg=14.0)[0]
    left = np.indices(skull.shape)[0] < skull.shape[0] // 2
    skull = np.where(left, np.flip(dented, 0), skull)
    coarse = blurred(implant)
    found = refine(skull, affine, coarse, threshold=0.4, other=lambda: np.diag([-1.0, 1, 1, 1]))
    middle = shells.hole(shells.points(skull.shape, affine), TOWARD, 7)
    assert dice(found.implant & middle, implant & middle) > 0.9


def test_where_the_wall_is_not_a_single_layer_the_other_side_has_a_vote():
    skull, affine, implant = case()
    where = shells.points(skull.shape, affine)
    ahead = np.array(TOWARD) / np.linalg.norm(TOWARD)
    along = where @ ahead
    strut = shells.hole(where, TOWARD, 16) & (along > 50) & (along < 76) & ~implant & ~skull
    block = shells.hole(where, TOWARD, 16) & (along > 25) & (along <= 50)
    coarse = blurred(implant | strut | block, sigma_mm=1.0)

    turn = np.diag([-1.0, 1.0, 1.0, 1.0])
    other = np.flip(strut, 0)  # the grid is symmetric about the middle
    skull |= other & ~implant & ~strut
    found = refine(skull, affine, coarse, threshold=0.5, other=lambda: turn)
    assert found.method == ("vote",)
    assert "other side agree" in found.warnings[0]
    assert (found.implant & strut).sum() > 0.8 * strut.sum()
    assert (found.implant & block).sum() < 0.2 * block.sum()
    assert (found.implant & implant).sum() > 0.8 * implant.sum()
    assert not (found.implant & skull).any()


def test_two_pieces_and_crumbs():
    skull, affine, left = case(toward=(-1, 0, 0.5), deg=18)
    other, _, right = case(toward=(1, 0, 0.5), deg=18)
    crumb = np.zeros_like(left)
    crumb[5:8, 5:8, 5:8] = True
    coarse = np.maximum(blurred(left | right, sigma_mm=1.5), crumb.astype(np.float32))
    found = refine(skull & other, affine, coarse, threshold=0.4)
    assert found.method == ("residual thin plate",) * 2
    assert found.warnings == ("Left out of the prediction: 1 small part (0.42 ml).",)
    assert dice(found.implant, left | right) > 0.9
    assert not (found.implant & crumb).any()


def test_a_prediction_of_nothing_is_refused():
    skull, affine, implant = case()
    coarse = 0.3 * blurred(implant)
    with pytest.raises(InputError, match=r"no defect was found: the highest probability is 0"):
        refine(skull, affine, coarse, threshold=0.5)
    with pytest.raises(InputError, match="threshold 1 must be between 0 and 1"):
        refine(skull, affine, coarse, threshold=1.0)
    with pytest.raises(InputError, match="coarse contains values that are not numbers"):
        refine(skull, affine, np.full_like(coarse, np.nan), threshold=0.5)
