from __future__ import annotations

import math

import numpy as np
import pytest

from famseg.metrics import (
    SCORES,
    border_dice,
    count_components,
    dice,
    score,
    score_labels,
    surface_roughness,
    surface_scores,
    volume_difference_ml,
)

SPACING = (0.5, 1.0, 2.0)
DISTANCES = ("hd_mm", "hd95_mm", "hd95_directed_mm", "hd95_pooled_mm", "assd_mm")
DIAGONAL = float(np.linalg.norm(np.array([20, 20, 20]) * SPACING))


@pytest.fixture
def case(box):
    """A defective skull, the true implant and a predicted one, which is shifted."""
    skull = np.zeros_like(box)
    skull[2:12, 2:11, 2:10] = True
    skull &= ~box
    return skull, box, np.roll(box, 1, axis=0)


def test_every_score_is_that_of_its_function(case):
    skull, truth, prediction = case
    found = score(prediction, truth, SPACING, defective=skull, tolerance_mm=0.6)
    surface = surface_scores(prediction, truth, SPACING, tolerance_mm=0.6)
    assert {name: getattr(found, name) for name in (*DISTANCES, "nsd")} == {
        name: surface[name] for name in (*DISTANCES, "nsd")
    }
    assert found.dsc == dice(prediction, truth)
    assert found.bdsc == border_dice(prediction, truth, skull, SPACING)
    assert found.roughness_mm == surface_roughness(prediction, SPACING)
    assert found.components == count_components(prediction) == found.truth_components == 1
    assert found.volume_difference_ml == volume_difference_ml(prediction, truth, SPACING) == 0
    assert found.volume_ml == found.truth_volume_ml == pytest.approx(0.12)
    assert (found.tolerance_mm, found.failed, found.empty_truth) == (0.6, False, False)


def test_volume_differences_by_hand(box):
    double = box | np.roll(box, 4, axis=2)
    found = score(double, box, (1.0, 1.0, 1.0))
    assert found.volume_difference_ml == pytest.approx(0.12)
    assert found.volume_difference_relative == pytest.approx(1.0)
    assert score(box, double, (1, 1, 1)).volume_difference_relative == pytest.approx(-0.5)


def test_of_whole_skulls_the_border_is_that_of_their_implants(case):
    skull, truth, prediction = case
    prediction = prediction & ~skull
    implants = score(prediction, truth, SPACING, defective=skull)
    skulls = score(prediction | skull, truth | skull, SPACING, defective=skull)
    assert skulls.bdsc == implants.bdsc < 1
    assert skulls.roughness_mm == implants.roughness_mm
    assert skulls.dsc == dice(prediction | skull, truth | skull) > implants.dsc


def test_a_kind_overrules_what_the_masks_look_like(case):
    skull, truth, prediction = case
    whole = prediction | skull, truth | skull
    found = score(*whole, SPACING, defective=skull, kind="implant")
    assert found.bdsc == border_dice(*whole, skull, SPACING)


def test_without_a_defective_skull_only_an_implant_has_a_roughness(box):
    assert score(box, box, SPACING).roughness_mm is None
    assert score(box, box, SPACING).bdsc is None
    implant = score(box, box, SPACING, kind="implant")
    assert implant.roughness_mm == surface_roughness(box, SPACING)
    assert implant.bdsc is None


@pytest.mark.parametrize("missed", ["prediction", "truth"])
def test_one_empty_mask_scores_the_worst_and_is_counted(case, missed):
    skull, truth, _ = case
    masks = {"prediction": truth, "truth": truth, missed: np.zeros_like(truth)}
    found = score(**masks, spacing_mm=SPACING, defective=skull)
    assert (found.dsc, found.bdsc, found.nsd, found.failed) == (0, 0, 0, True)
    assert {getattr(found, name) for name in DISTANCES} == {DIAGONAL}
    assert found.roughness_mm == 6.0  # the radius: three voxels of 2 mm
    sign = -1 if missed == "prediction" else 1
    assert found.volume_difference_ml == pytest.approx(sign * 0.12)
    assert found.volume_difference_relative == sign
    assert found.components == (missed == "truth")
    assert found.empty_truth == (missed == "truth")


def test_two_empty_masks_agree(case):
    none = np.zeros_like(case[0])
    found = score(none, none, SPACING, defective=case[0])
    assert (found.dsc, found.bdsc, found.nsd, found.failed) == (1, 1, 1, False)
    assert {getattr(found, name) for name in (*DISTANCES, "roughness_mm")} == {0.0}
    assert (found.volume_difference_ml, found.volume_difference_relative) == (0, 0)
    assert found.empty_truth


@pytest.mark.parametrize(
    ("prediction", "truth", "undefined"),
    [
        ("none", "some", {*DISTANCES, "roughness_mm"}),
        ("some", "none", {*DISTANCES, "volume_difference_relative"}),
        ("none", "none", {*SCORES} - {"volume_difference_ml", "components"}),
    ],
)
def test_nan_where_a_formula_has_no_value_and_nowhere_else(case, prediction, truth, undefined):
    skull, some, _ = case
    masks = {"some": some, "none": np.zeros_like(some)}
    found = score(masks[prediction], masks[truth], SPACING, defective=skull, empty="nan")
    values = {name: getattr(found, name) for name in SCORES}
    assert {name for name, value in values.items() if math.isnan(value)} == undefined
    assert found.failed == (prediction != truth)
    surface = surface_scores(masks[prediction], masks[truth], SPACING, empty="nan")
    assert {name for name in (*DISTANCES, "nsd") if math.isnan(surface[name])} == undefined & {
        *DISTANCES,
        "nsd",
    }


def test_the_rule_can_be_to_raise(box):
    none = np.zeros_like(box)
    with pytest.raises(ValueError, match=r"prediction is empty\. Set empty='diagonal'"):
        score(none, box, SPACING, empty="raise")
    with pytest.raises(ValueError, match=r"truth is empty\."):
        surface_scores(box, none, SPACING, empty="raise")
    score(box, box, SPACING, empty="raise")


def test_a_skull_in_which_nothing_was_filled_has_failed(case):
    skull, truth, _ = case
    found = score(skull, truth | skull, SPACING, defective=skull)
    assert (found.failed, found.bdsc, found.roughness_mm) == (True, 0.0, 6.0)
    assert found.dsc > 0.5  # the existing skull


def test_a_skull_of_somebody_else_is_noticed(case):
    skull, _, prediction = case
    other = np.roll(skull, 6, axis=0)
    share = round(100 * np.count_nonzero(skull & other) / np.count_nonzero(other))
    with pytest.raises(
        ValueError, match=rf"the reference contains {share}% of the defective skull: a"
    ):
        score(prediction, skull, SPACING, defective=other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"empty": "zero"}, r"empty is 'zero'\. Choose from diagonal, nan, raise\."),
        ({"kind": "bone"}, r"kind is 'bone'\. Choose from auto, skull, implant\."),
        ({"tolerance_mm": -1}, "tolerance_mm must be a length in mm, 0 or more, got -1"),
        ({"defective": np.zeros((20, 20, 20))}, "defective is empty, so it has no border"),
        ({"defective": np.ones((2, 2, 2))}, r"defective has shape \(2, 2, 2\) and truth \(20, "),
    ],
)
def test_faulty_options_are_refused(box, options, message):
    with pytest.raises(ValueError, match=message):
        score(box, box, SPACING, **options)


def test_masks_that_fill_the_image_have_a_surface_at_its_border():
    full = np.ones((6, 5, 4))
    found = score(full, full, SPACING, kind="implant")
    assert (found.dsc, found.hd_mm, found.nsd) == (1, 0, 1)
    less = full.copy()
    less[0] = 0
    found = score(less, full, SPACING, kind="implant")
    assert found.hd_mm == pytest.approx(0.5)
    assert found.roughness_mm > 0


def test_a_million_voxels_of_noise_are_scored():
    noise = np.random.default_rng(0).random((100, 100, 100)) < 0.5
    truth = np.zeros_like(noise)
    truth[20:80, 20:80, 20:80] = True
    found = score(noise, truth, (1, 1, 1), kind="implant")
    assert all(math.isfinite(value) for value in found.flat().values() if value is not None)
    assert found.components > 1000
    assert found.roughness_mm > 1


def test_each_label_is_scored_by_itself(blob, box):
    first, second = np.roll(box, 8, axis=0), box
    truth = first + 2 * second
    prediction = np.roll(first, 1, axis=2) + 3 * np.roll(second, 7, axis=1)
    found = score_labels(prediction, truth, SPACING)
    assert list(found) == [1, 2, 3]
    assert found[1] == score(np.roll(first, 1, axis=2), first, SPACING)
    assert found[2].failed
    assert found[2].hd_mm == DIAGONAL
    assert found[3].empty_truth
    assert list(score_labels(prediction, truth, SPACING, labels=[4, 1])) == [1, 4]
    assert score_labels(prediction, truth, SPACING, labels=[4])[4].dsc == 1.0


def test_label_maps_that_are_none_are_refused(box):
    with pytest.raises(
        ValueError, match=r"truth must contain whole numbers, one for each label\. Take the"
    ):
        score_labels(box * 1.0, box * 0.5, SPACING)
    with pytest.raises(ValueError, match=r"\(3, 3, 3\) and truth \(20, 20, 20\)"):
        score_labels(np.ones((3, 3, 3)), box, SPACING)
