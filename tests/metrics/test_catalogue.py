"""One row per metric: the fields that tables need, and each value computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from famseg.metrics import BY_NAME, METRICS, SCORES, score


def test_names_are_unique_and_say_their_unit():
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        if metric.unit in ("mm", "ml", "voxels"):
            assert metric.name.endswith(f"_{metric.unit}")
        assert metric.label


def test_every_metric_of_the_catalogue_is_scored():
    mask = np.zeros((8, 8, 8), dtype=bool)
    mask[2:5, 2:5, 2:5] = True
    found = score(mask, mask, (1, 1, 1), kind="implant")
    assert list(found.values) == list(SCORES)
    assert [name for name, value in found.values.items() if value is None] == ["bdsc"]
    shares = [m for m in METRICS if m.in_scores and m.unit == "0 to 1" and m.better == "larger"]
    perfect = {m.name for m in shares} - {"bdsc"}
    assert {found.values[name] for name in perfect} == {1.0}


@pytest.mark.parametrize(("voxels", "expected"), [(27, 1.0), (9, 0.5), (0, 0.0)])
def test_volumetric_similarity_by_hand(voxels, expected):
    truth = np.zeros((8, 8, 8), dtype=bool)
    truth[2:5, 2:5, 2:5] = True  # 27 voxels
    prediction = np.zeros_like(truth)
    prediction.flat[:voxels] = True  # somewhere else: only the sizes count
    assert score(prediction, truth, (1, 1, 2)).volumetric_similarity == expected


def test_volumetric_similarity_of_empty_masks_follows_the_rule():
    empty = np.zeros((8, 8, 8), dtype=bool)
    assert score(empty, empty, (1, 1, 1)).volumetric_similarity == 1.0
    assert math.isnan(score(empty, empty, (1, 1, 1), empty="nan").volumetric_similarity)
