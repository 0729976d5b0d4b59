from __future__ import annotations

import numpy as np
import pytest

from famseg.evaluation import calibration


def test_a_certain_and_wrong_classifier_is_off_by_one() -> None:
    assert calibration([1.0, 1.0], [False, False]).ece == 1.0
    assert calibration([1.0, 1.0], [True, True]).ece == 0.0


def test_two_bins_by_hand() -> None:
    # (14/15, 1]: four at 0.95, three right. (8/15, 9/15]: two at 0.55, one right.
    found = calibration([0.95] * 4 + [0.55] * 2, [1, 1, 1, 0, 1, 0])
    assert found.ece == pytest.approx(4 / 6 * (0.95 - 0.75) + 2 / 6 * (0.55 - 0.5))
    filled = {index: each for index, each in enumerate(found.bins) if each.n}
    assert {index: each.n for index, each in filled.items()} == {8: 2, 14: 4}
    assert (filled[14].accuracy, filled[8].accuracy) == (0.75, 0.5)
    assert filled[14].confidence == pytest.approx(0.95)
    assert (found.bins[0].accuracy, found.bins[0].confidence) == (None, None)


def test_errors_of_one_bin_cancel_those_of_two_do_not() -> None:
    sure, right = [0.7, 0.9], [True, False]
    assert calibration(sure, right, bins=1).ece == pytest.approx(0.8 - 0.5)
    assert calibration(sure, right, bins=5).ece == pytest.approx((0.3 + 0.9) / 2)


def test_an_edge_belongs_to_the_bin_below_it_and_zero_to_the_first() -> None:
    found = calibration([0.0, 0.5, 0.5000001, 1.0], [0, 1, 1, 1], bins=2)
    assert [each.n for each in found.bins] == [2, 2]


def test_the_bins_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    sure, right = rng.random(200), rng.random(200) < 0.6
    ece = 0.0
    for low in np.arange(15) / 15:
        inside = (sure > low) & (sure <= low + 1 / 15)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    found = calibration(sure, right)
    assert found.ece == pytest.approx(ece)
    assert sum(each.n for each in found.bins) == 200


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([0.5], [True, False], r"one entry per sample, got \(1,\) and \(2,\)"),
        ([], [], r"shape \(n,\)"),
        ([3.0], [True], r"found 3 to 3\. Give the largest probability of each sample, not logits"),
        ([float("nan")], [True], "found nan to nan"),
    ],
)
def test_what_is_no_confidence_is_refused(confidence, correct, message) -> None:
    with pytest.raises(ValueError, match=message):
        calibration(confidence, correct)
