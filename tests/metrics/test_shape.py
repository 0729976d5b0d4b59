from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi

from famseg.metrics import border_dice, count_components, dice, volume_difference_ml


@pytest.fixture
def bar():
    """A defective skull, its implant and one that ends 5 voxels early, along a bar of 40 voxels."""
    skull, truth, short = np.zeros((3, 40, 3, 3), dtype=bool)
    skull[:4] = skull[36:] = True
    truth[4:36] = True
    short[4:31] = True
    return skull, truth, short


def test_border_dice_by_hand(bar):
    skull, truth, short = bar
    # Of the truth 10 slices lie near either end; the short one has 10 and 5 of them.
    assert border_dice(short, truth, skull, (1.0, 1.0, 1.0)) == pytest.approx(2 * 15 / (15 + 20))
    # With voxels of 2 mm five slices at either end; at 3 voxels' distance three.
    assert border_dice(short, truth, skull, (2.0, 2.0, 2.0)) == pytest.approx(2 * 5 / (5 + 10))
    near = border_dice(short, truth, skull, (1.0, 1.0, 1.0), distance_mm=3.0)
    assert near == pytest.approx(2 * 3 / (3 + 6))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.45, 0.45, 1.2), (3.5, 3.5, 3.5)])
@pytest.mark.parametrize("seed", range(3))
def test_border_dice_agrees_with_the_form_of_autoimplant(blob, spacing, seed):
    """Everything farther than 10 mm from the defective skull is erased from both implants."""
    skull = blob(seed, (31, 26, 33)) & blob(seed + 50, (31, 26, 33))
    truth, prediction = (blob(seed + n, (31, 26, 33)) & ~skull for n in (10, 20))
    far = ndi.distance_transform_edt(~skull, sampling=spacing) > 10
    wanted = dice(prediction & ~far, truth & ~far)
    assert border_dice(prediction, truth, skull, spacing) == wanted


def test_voxels_inside_the_defective_skull_count_as_autoimplant_counts_them(bar):
    skull, truth, _ = bar
    assert border_dice(truth | skull, truth, skull, (1.0, 1.0, 1.0)) == pytest.approx(40 / 48)


def test_ten_millimeters_are_within_ten_millimeters():
    skull, truth = np.zeros((2, 130, 2, 2), dtype=bool)
    skull[0] = True
    for edge in (0.1, 0.7, 0.9, 1.1):
        steps = round(10 / edge)
        truth[:] = False
        truth[steps] = True
        distance = steps * edge
        empty = np.zeros_like(truth)
        found = border_dice(empty, truth, skull, (edge,) * 3, distance_mm=distance)
        assert found == 0.0, edge  # it is near, and missed


def test_two_implants_without_a_voxel_near_the_border_agree(bar):
    skull = bar[0]
    truth, prediction = np.zeros((2, 40, 3, 3), dtype=bool)
    truth[20], prediction[18] = True, True
    assert border_dice(prediction, truth, skull, (1.0, 1.0, 1.0)) == 1.0
    assert border_dice(np.zeros_like(truth), np.zeros_like(truth), skull, (1, 1, 1)) == 1.0


def test_faulty_input_of_the_border_is_refused(bar):
    skull, truth, short = bar
    with pytest.raises(ValueError, match=r"is empty, so it has no border\. Give the skull"):
        border_dice(short, truth, np.zeros_like(skull), (1, 1, 1))
    with pytest.raises(ValueError, match=r"defective has shape \(39, 3, 3\) and truth \(40, 3, 3"):
        border_dice(short, truth, skull[1:], (1, 1, 1))
    with pytest.raises(ValueError, match=r"distance_mm must be a positive length in mm, got 0"):
        border_dice(short, truth, skull, (1, 1, 1), distance_mm=0)


def test_volume_difference_by_hand(box):
    """120 voxels of 3 mm3 against none and against 100."""
    assert volume_difference_ml(box, np.zeros_like(box), (1, 1.5, 2)) == pytest.approx(0.36)
    less = box.copy()
    less[4, :, :] = False
    assert volume_difference_ml(less, box, (1, 1.5, 2)) == pytest.approx(-0.06)


def test_pieces_hang_together_through_faces():
    mask = np.zeros((6, 6, 6), dtype=bool)
    assert count_components(mask) == 0
    mask[0, 0, 0] = mask[1, 1, 0] = True  # an edge
    assert count_components(mask) == 2
    mask[1, 0, 0] = True
    assert count_components(mask) == 1
    mask[5, 5, 5] = True
    assert count_components(mask) == 2


@pytest.mark.parametrize("seed", range(3))
def test_pieces_are_those_of_scipy(seed):
    noise = np.random.default_rng(seed).random((20, 21, 22)) < 0.2
    assert count_components(noise) == ndi.label(noise)[1]


def test_a_batch_has_no_pieces():
    with pytest.raises(ValueError, match=r"got \(1, 4, 4, 4\)\. Remove the batch"):
        count_components(np.ones((1, 4, 4, 4)))
