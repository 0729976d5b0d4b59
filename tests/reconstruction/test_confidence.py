from __future__ import annotations

import numpy as np
import pytest

from famseg.reconstruction import Curve, agreement_of, fit_curve
from famseg.reconstruction._confidence import THRESHOLDS, dice_by_threshold


def test_the_dsc_at_each_threshold_is_that_of_thresholding() -> None:
    rng = np.random.default_rng(0)
    skull = rng.random((6, 6, 6)) < 0.2
    implant = (rng.random((6, 6, 6)) < 0.3) & ~skull
    probability = rng.random((6, 6, 6)).astype(np.float32)
    probability[0, 0, 0] = THRESHOLDS[3]  # a value on a threshold is not above it
    found = dice_by_threshold(probability, skull, implant)
    for level, dsc in zip(np.float32(THRESHOLDS), found, strict=True):
        mask = (probability > level) & ~skull
        assert dsc == pytest.approx(2 * (mask & implant).sum() / (mask.sum() + implant.sum()))


def test_an_empty_prediction_has_a_dsc_of_0_at_every_threshold() -> None:
    nothing = np.zeros((4, 4, 4), dtype=np.float32)
    implant = np.ones((4, 4, 4), dtype=bool)
    assert not dice_by_threshold(nothing, ~implant, implant).any()


def test_the_curve_is_the_isotonic_regression_by_hand() -> None:
    # 0.5 falls to 0.3: both get their mean, at the mean of their agreements.
    curve = fit_curve([0.4, 0.2, 0.8, 0.6], [0.5, 0.1, 0.9, 0.3])
    assert curve.agreement == (0.2, 0.5, 0.8)
    assert curve.dsc == (0.1, 0.4, 0.9)
    assert curve.spearman == pytest.approx(0.8)
    assert [curve(x) for x in (0.0, 0.2, 0.35, 1.0)] == pytest.approx([0.1, 0.1, 0.25, 0.9])


def test_the_curve_rises_and_is_nearer_to_the_cases_than_any_constant() -> None:
    rng = np.random.default_rng(1)
    agreement = rng.random(60)
    dsc = agreement**2 + rng.normal(0, 0.1, 60)
    curve = fit_curve(agreement.tolist(), dsc.tolist())
    grid = np.array([curve(x) for x in np.linspace(0, 1, 200)])
    assert (np.diff(grid) >= 0).all()
    error = np.mean([(curve(a) - d) ** 2 for a, d in zip(agreement, dsc, strict=True)])
    assert error < dsc.var() / 4
    assert curve.n == 60


def test_cases_of_one_agreement_get_their_mean() -> None:
    curve = fit_curve([0.5, 0.5, 0.5], [0.2, 0.9, 0.4])
    assert curve(0.5) == pytest.approx(0.5)
    assert curve.spearman is None


def test_a_curve_survives_its_record_and_a_damaged_record_does_not() -> None:
    curve = fit_curve([0.1, 0.5, 0.9], [0.2, 0.3, 0.8])
    assert Curve.of_record(curve.record()) == curve
    with pytest.raises(ValueError, match="it has no confidence curve"):
        Curve.of_record({"agreement": [1]})
    with pytest.raises(ValueError, match="its confidence curve does not rise"):
        Curve.of_record({**curve.record(), "dsc": [0.9, 0.1, 0.2]})


def test_without_a_calibration_the_confidence_is_the_agreement() -> None:
    assert Curve()(0.7) == 0.7


def test_a_curve_needs_one_dsc_per_agreement() -> None:
    with pytest.raises(ValueError, match="2 agreements for 1 cases"):
        fit_curve([0.1, 0.2], [0.3])


def test_agreement_by_hand() -> None:
    skull = np.array([True, False, False, False])
    sure = np.array([1.0, 1.0, 1.0, 0.0], dtype=np.float32)
    other = np.array([1.0, 1.0, 0.0, 0.0], dtype=np.float32)
    mean, agree, number = agreement_of([sure, sure, other], skull, 0.5)
    assert mean.tolist() == pytest.approx([1, 1, 2 / 3, 0])
    # The skull's own voxel is in no implant: all agree.
    assert agree.tolist() == pytest.approx([1, 1, 2 / 3, 1])
    dice = (1 + 1 + 2 / 3) / 3
    expected = 2 * (1 + 2 / 3) / (2 + 1 + 2 / 3)
    assert number == pytest.approx((dice + expected) / 2)


def test_the_same_certain_answer_agrees_fully_and_an_empty_one_not_at_all() -> None:
    skull = np.zeros((2, 2, 2), dtype=bool)
    prediction = np.zeros((2, 2, 2), dtype=np.float32)
    prediction[0] = 1
    assert agreement_of([prediction] * 3, skull, 0.5)[2] == 1
    assert agreement_of([prediction * 0] * 3, skull, 0.5)[2] == 0
