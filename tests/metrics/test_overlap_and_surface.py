from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from scipy.spatial.distance import cdist

from famseg.metrics import dice, surface_scores
from famseg.metrics._surface import border, elements

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 0.7), (0.5, 1.3, 4.0)]
DISTANCES = ("hd", "hd95", "hd95_directed", "hd95_pooled", "assd")


def test_dice_by_hand():
    assert dice([1, 1, 0, 0], [0, 1, 1, 0]) == 0.5
    assert dice(np.ones((2, 2), dtype=bool), np.ones((2, 2))) == 1.0


def test_dice_of_empty_masks():
    none, some = np.zeros(3), np.array([0, 1, 0])
    assert dice(none, none) == 1.0
    assert dice(none, some) == dice(some, none) == 0.0


@pytest.mark.filterwarnings(
    "ignore:.*always_return_as_numpy.*:FutureWarning"  # MONAI calls its own deprecated argument
)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(4))
def test_border_distances_agree_with_monai(blob, spacing, seed):
    prediction, truth = blob(seed), blob(seed + 10)
    scores = surface_scores(prediction, truth, spacing)
    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
    for name, percentile in (("hd_mm", None), ("hd95_directed_mm", 95)):
        theirs = compute_hausdorff_distance(
            *pair, include_background=True, percentile=percentile, spacing=spacing
        )
        assert scores[name] == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(2))
def test_scores_agree_with_their_definitions(blob, spacing, seed):
    prediction, truth = blob(seed), blob(seed + 20)
    scores = surface_scores(prediction, truth, spacing, tolerance_mm=1.0)
    p, t = (np.argwhere(border(mask)) * spacing for mask in (prediction, truth))
    pairs = cdist(p, t)
    pooled = np.concatenate([pairs.min(axis=1), pairs.min(axis=0)])
    assert scores["hd95_pooled_mm"] == pytest.approx(np.percentile(pooled, 95), rel=1e-5)
    (p, p_area), (t, t_area) = (elements(mask, spacing) for mask in (prediction, truth))
    pairs = cdist(np.argwhere(p) * spacing, np.argwhere(t) * spacing)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    total = p_area.sum() + t_area.sum()
    mean = (there @ p_area + back @ t_area) / total
    near = (p_area[there <= 1 + 1e-5].sum() + t_area[back <= 1 + 1e-5].sum()) / total
    assert scores["assd_mm"] == pytest.approx(mean, rel=1e-5)
    assert scores["nsd"] == pytest.approx(near, rel=1e-6)
    wanted = []
    for distances, areas in ((there, p_area), (back, t_area)):
        levels = np.unique(distances)
        share = np.array([areas[distances <= level].sum() for level in levels]) / areas.sum()
        wanted.append(levels[share >= 0.95 - 1e-12][0])
    assert scores["hd95_mm"] == pytest.approx(max(wanted), rel=1e-5)


def test_a_shift_along_an_axis_is_the_distance(box):
    scores = surface_scores(np.roll(box, 3, axis=2), box, (0.5, 1.0, 2.0))
    assert scores["hd_mm"] == pytest.approx(6.0)
    assert scores["hd_voxels"] == 3.0
    assert scores["hd95_mm"] <= 6.0


def test_concentric_balls_are_apart_by_the_difference_of_their_radii(ball):
    scores = surface_scores(ball(9.0), ball(14.0), (1.0, 1.0, 1.0))
    for name in DISTANCES:
        assert scores[f"{name}_mm"] == pytest.approx(5.0, abs=0.75), name


def test_both_surfaces_of_a_shell_count(ball):
    shell = ball(15.0) & ~ball(9.0)
    scores = surface_scores(ball(15.0), shell, (1.0, 1.0, 1.0))
    assert scores["hd95_mm"] == pytest.approx(6.0, abs=0.75)  # the inner wall is missing
    outer, inner = 15.0**2, 9.0**2
    assert scores["nsd"] == pytest.approx(2 * outer / (2 * outer + inner), abs=0.02)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (3.0, 3.0, 3.0)])
def test_distances_in_voxels_do_not_know_the_spacing(blob, spacing):
    unit = surface_scores(blob(1), blob(2), (1.0, 1.0, 1.0))
    scaled = surface_scores(blob(1), blob(2), spacing)
    for name in DISTANCES:
        assert scaled[f"{name}_voxels"] == unit[f"{name}_voxels"] == unit[f"{name}_mm"]
        assert scaled[f"{name}_mm"] == pytest.approx(spacing[0] * unit[f"{name}_mm"])


def test_distances_in_voxels_of_long_voxels_are_those_of_unit_spacing(blob):
    unit = surface_scores(blob(1), blob(2), (1.0, 1.0, 1.0))
    flat = surface_scores(blob(1), blob(2), (0.5, 1.3, 4.0))
    assert all(flat[f"{name}_voxels"] == unit[f"{name}_voxels"] for name in DISTANCES)


def test_prediction_and_truth_may_change_places(blob):
    there = surface_scores(blob(1), blob(2), (0.5, 1.3, 4.0))
    assert there == pytest.approx(surface_scores(blob(2), blob(1), (0.5, 1.3, 4.0)))


def test_axes_may_change_places_with_the_spacing(blob):
    plain = surface_scores(blob(1), blob(2), (0.5, 1.3, 4.0))
    turned = surface_scores(blob(1).transpose(2, 0, 1), blob(2).transpose(2, 0, 1), (4.0, 0.5, 1.3))
    assert turned == pytest.approx(plain, rel=1e-5)


def test_a_mask_agrees_with_itself(blob):
    scores = surface_scores(blob(0), blob(0), (0.5, 1.3, 4.0))
    assert scores.pop("nsd") == 1.0
    assert set(scores.values()) == {0.0}


def test_area_and_number_of_voxels_weigh_differently(box):
    """Voxels ten times as long as wide: the small spur has many border voxels and little area."""
    truth = np.zeros((24, 8, 40), dtype=bool)
    truth[2:5, 2:4, :30] = True
    spur = truth.copy()
    spur[5:9, 3, 10] = True
    scores = surface_scores(spur, truth, (0.1, 0.1, 1.0))
    assert scores["hd_mm"] == pytest.approx(0.4)
    assert scores["hd95_mm"] < scores["hd_mm"]


@pytest.mark.parametrize("spacing", [0.7, 0.1, 1.75, 3.5])
def test_one_voxel_is_within_the_tolerance_of_one_voxel(box, spacing):
    shifted = np.roll(box, 1, axis=0)
    assert surface_scores(shifted, box, (spacing,) * 3)["nsd"] == 1.0
    less = surface_scores(shifted, box, (spacing,) * 3, tolerance_mm=0.99 * spacing)
    assert less["nsd"] < 1.0


def test_rounding_does_not_decide_about_the_tolerance(box):
    """A distance of one edge is within a tolerance of one edge, whatever the unit of length."""
    scores = [
        surface_scores(np.roll(box, 1, axis=0), box, (s, s, 2 * s), tolerance_mm=s)["nsd"]
        for s in (1.0, 0.7, 0.1, 0.3, 1.1, 0.49, 0.9)
    ]
    assert scores == pytest.approx([scores[0]] * 7)


def test_the_tolerance_is_the_longest_edge_unless_given(box):
    assert surface_scores(np.roll(box, 4, axis=0), box, (1.0, 1.0, 4.0))["nsd"] == 1.0
    assert surface_scores(np.roll(box, 5, axis=0), box, (1.0, 1.0, 4.0))["nsd"] < 1.0


@pytest.mark.parametrize("missed", ["prediction", "truth"])
def test_one_empty_mask_is_as_far_as_the_image_reaches(box, missed):
    masks = {"prediction": box, "truth": box, missed: np.zeros_like(box)}
    scores = surface_scores(**masks, spacing_mm=(1.0, 2.0, 2.0))
    assert {scores[f"{name}_mm"] for name in DISTANCES} == {60.0}  # 20 * sqrt(1 + 4 + 4)
    assert scores["hd_voxels"] == pytest.approx(20 * np.sqrt(3))
    assert scores["nsd"] == 0.0


def test_no_distance_exceeds_that_of_a_missed_case():
    corners = np.zeros((2, 6, 5, 4), dtype=bool)
    corners[0, 0, 0, 0] = corners[1, -1, -1, -1] = True
    spacing = (0.5, 1.3, 4.0)
    missed = surface_scores(np.zeros_like(corners[0]), corners[1], spacing)
    farthest = surface_scores(corners[0], corners[1], spacing)
    assert all(farthest[f"{name}_mm"] < missed[f"{name}_mm"] for name in DISTANCES)


def test_two_empty_masks_agree():
    empty = np.zeros((4, 4, 4))
    scores = surface_scores(empty, empty, (1.0, 1.0, 1.0))
    assert scores.pop("nsd") == 1.0
    assert set(scores.values()) == {0.0}


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (
            np.full((4, 4, 4), 0.3),
            r"prediction must contain only 0 and 1, but it contains only 0\.3: probabilities",
        ),
        (np.full((4, 4, 4), np.nan), r"it contains NaN or infinity\. Threshold it"),
        (np.ones((4, 4, 5)), r"\(4, 4, 5\) and truth \(4, 4, 4\)\. Resample both to one grid"),
    ],
)
def test_masks_that_cannot_be_compared_are_refused(prediction, message):
    truth = np.ones((4, 4, 4))
    with pytest.raises(ValueError, match=message):
        surface_scores(prediction, truth, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=message):
        dice(prediction, truth)


def test_a_batch_is_refused_with_advice():
    batch = np.ones((1, 1, 4, 4, 4))
    with pytest.raises(ValueError, match=r"got \(1, 1, 4, 4, 4\)\. Remove the batch"):
        surface_scores(batch, batch, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, np.nan), (1, -1, 1)])
def test_a_faulty_spacing_is_refused(box, spacing):
    with pytest.raises(ValueError, match="spacing_mm must be three positive lengths in mm"):
        surface_scores(box, box, spacing)


@pytest.mark.parametrize("tolerance", [-1.0, np.nan, np.inf])
def test_a_faulty_tolerance_is_refused(box, tolerance):
    with pytest.raises(ValueError, match="tolerance_mm must be a length in mm, 0 or more"):
        surface_scores(box, box, (1.0, 1.0, 1.0), tolerance_mm=tolerance)


def test_a_tolerance_of_0_calls_right_what_lies_on_the_other_surface(box):
    taller = box.copy()
    taller[4:10, 4:9, 8] = True  # one side of six moved
    exact = surface_scores(taller, box, (1.0, 1.0, 1.0), tolerance_mm=0)["nsd"]
    assert 0.5 < exact < 0.9
    assert surface_scores(box, box, (1.0, 1.0, 1.0), tolerance_mm=0)["nsd"] == 1.0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_measured_along_its_outline_whatever_axis_it_lies_across(axis):
    truth = np.zeros((20, 16), dtype=bool)
    truth[3:15, 3:13] = True
    truth[6:9, 6:9] = False  # a hole has an outline, too
    prediction = np.roll(truth, 2, axis=0)
    flat = surface_scores(prediction, truth, (1.0, 1.5))
    spacing = np.insert([1.0, 1.5], axis, 7.0)
    masks = np.expand_dims(prediction, axis), np.expand_dims(truth, axis)
    assert surface_scores(*masks, spacing) == pytest.approx(flat, rel=1e-6)
    assert (flat["hd_mm"], flat["hd95_mm"]) == (2.0, 2.0)
    assert 0 < flat["assd_mm"] < 2.0
    missed = surface_scores(np.zeros_like(masks[0]), masks[1], spacing)
    assert missed["hd_mm"] == pytest.approx(np.hypot(20, 24))  # the slice's diagonal
