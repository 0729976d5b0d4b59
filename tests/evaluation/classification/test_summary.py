from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from famseg.evaluation import (
    Answer,
    answers_image,
    classification_metrics,
    classification_signs,
    classification_table,
    confusion_matrix,
    summarize_classes,
)
from famseg.statistics import wilson_interval

CLASSES = ("ant", "bee")


def rows(
    pairs: list[tuple[int, int]], *, dataset: str = "test", confidence: float = 0.8
) -> list[dict[str, Any]]:
    return [
        {
            "set": dataset,
            "subject": f"{dataset}-{number}",
            "label": label,
            "prediction": answer,
            "accuracy": float(label == answer),
            "confidence": 1.0 if answer < 0 else confidence,
            "loss": 87.34 if answer < 0 else (0.2 if label == answer else 1.6),
            "failed": answer < 0,
        }
        for number, (label, answer) in enumerate(pairs)
    ]


# Ten samples: six ants, of which five are right; four bees, three right, one failed.
TEST = rows([(0, 0)] * 5 + [(0, 1)] + [(1, 1)] * 3 + [(1, -1)])
TRAIN = rows([(1, 1)] * 15 + [(0, 0)] * 5, dataset="train")


def test_figures_of_ten_samples_by_hand() -> None:
    test = summarize_classes(TEST, classes=CLASSES)["test"]
    assert (test["n"], test["failed"]) == (10, 1)
    assert test["accuracy"]["mean"] == 0.8
    assert test["error"]["mean"] == pytest.approx(0.2)
    assert test["accuracy"]["std"] == pytest.approx(0.4)
    assert test["accuracy"]["standard_error"] == pytest.approx(0.4 / math.sqrt(10))
    assert test["accuracy"]["low"] == pytest.approx(0.4902, abs=1e-4)
    assert test["accuracy"]["high"] == pytest.approx(0.9433, abs=1e-4)
    assert test["loss"]["mean"] == pytest.approx((8 * 0.2 + 1.6 + 87.34) / 10)
    # Nine at 0.8, eight of them right; one at 1, wrong.
    assert test["ece"] == pytest.approx(0.9 * abs(8 / 9 - 0.8) + 0.1 * 1.0)
    assert test["balanced_accuracy"] == pytest.approx((5 / 6 + 3 / 4) / 2)
    ant, bee = test["per_class"]["ant"], test["per_class"]["bee"]
    assert (ant["n"], ant["predicted"], ant["accuracy"]) == (6, 5, 5 / 6)
    assert (bee["n"], bee["predicted"], bee["accuracy"]) == (4, 4, 3 / 4)
    assert sum(each["n"] for each in test["bins"]) == 10


def test_gap_and_majority_compare_train_and_test() -> None:
    summary = summarize_classes([*TEST, *TRAIN], classes=CLASSES)
    gap = summary["gap"]["accuracy"]
    assert gap["mean"] == pytest.approx(0.2)
    # Newcombe's interval of a difference: 10 of 10 would do as well as 20 of 20 here.
    low, high = wilson_interval(20, 20).low, wilson_interval(8, 10).high
    assert gap["low"] == pytest.approx(0.2 - math.hypot(1 - low, high - 0.8))
    assert summary["gap"]["loss"]["mean"] == pytest.approx(9.054 - 0.2)
    # Bees are most frequent in training, and four of the ten test samples.
    assert summary["majority"] == {"class": "bee", "accuracy": 0.4}
    assert summarize_classes(TEST, classes=CLASSES)["majority"]["class"] == "ant"


def test_a_summary_fits_json_and_does_not_depend_on_the_order() -> None:
    summary = summarize_classes([*TEST, *TRAIN], classes=CLASSES)
    json.dumps(summary, allow_nan=False)
    again = summarize_classes([*TEST[::-1], *TRAIN], classes=CLASSES)
    assert {**again["test"], "ece": 0, "bins": 0} == {**summary["test"], "ece": 0, "bins": 0}
    json.dumps(summarize_classes(TEST[:1], classes=CLASSES), allow_nan=False)


def test_a_class_without_samples_has_no_accuracy() -> None:
    test = summarize_classes(TEST[:6], classes=CLASSES)["test"]
    assert test["per_class"]["bee"]["accuracy"] is None
    assert test["balanced_accuracy"] == 5 / 6


def test_flat_metrics_keep_the_curve_of_the_training_apart() -> None:
    flat = classification_metrics(summarize_classes([*TEST, *TRAIN], classes=CLASSES))
    assert flat["test/accuracy"] == 0.8
    assert flat["test/n"] == 10.0
    assert flat["test/failed"] == 1.0
    assert flat["test/gap"] == pytest.approx(0.2)
    assert flat["test/majority"] == 0.4
    assert flat["train/accuracy"] == 1.0
    assert flat["train/evaluation_loss"] == pytest.approx(0.2)
    assert "train/loss" not in flat
    assert all(math.isfinite(value) for value in flat.values())


def test_the_table_fits_a_terminal_and_says_what_its_numbers_are() -> None:
    text = classification_table(summarize_classes([*TEST, *TRAIN], classes=CLASSES))
    assert max(map(len, text.splitlines())) <= 88
    words = [" ".join(line.split()) for line in text.splitlines()]
    assert words[0] == "test train"
    assert "accuracy 0.8000 [0.4902, 0.9433] 1.0000 [0.8389, 1.0000]" in words
    assert "accuracy, train minus test: +0.2000 [" in text
    assert "always predicting bee: accuracy 0.4000" in text
    assert "test, lowest accuracy: bee 0.750 (n 4), ant 0.833 (n 6)" in text
    assert "failed: logits that are not finite; counted as wrong" in text


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_wilson_holds_its_definition_and_the_ends_of_the_scale(confidence) -> None:
    found = wilson_interval(3, 40, confidence=confidence)
    ends = np.array([found.low, found.high])
    z = np.abs(found.estimate - ends) / np.sqrt(ends * (1 - ends) / 40)
    assert z == pytest.approx([0.6745 if confidence == 0.5 else 1.95996] * 2, rel=1e-4)
    assert wilson_interval(0, 5).low == 0.0
    assert wilson_interval(5, 5).high == 1.0


def test_what_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="6 of 5 is not a proportion"):
        wilson_interval(6, 5)
    with pytest.raises(ValueError, match="0 of 0 is not a proportion"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 95\. Give 0\.95"):
        wilson_interval(1, 5, confidence=95)


def test_the_confusion_matrix_leaves_failed_samples_out() -> None:
    assert confusion_matrix(TEST, 2).tolist() == [[5, 1], [0, 3]]
    assert confusion_matrix(TEST[-1:], 2).tolist() == [[0, 0], [0, 0]]


def signs(*parts: list[dict[str, Any]], history: Any = (), weight: float = 0.0) -> str:
    every = [row for part in parts for row in part]
    summary = summarize_classes(every, classes=CLASSES)
    return "\n".join(classification_signs(history, summary, weight=weight))


GOOD = rows([(0, 0)] * 45 + [(1, 1)] * 45 + [(0, 1), (1, 0)] * 5, confidence=0.9)


def test_a_good_run_shows_nothing() -> None:
    assert signs(GOOD, TRAIN) == ""


def test_failed_samples_are_said() -> None:
    assert "test: 1 of 10 samples have logits that are not finite" in signs(TEST)


def test_a_gap_is_said_with_both_accuracies() -> None:
    worse = rows([(0, 0)] * 40 + [(1, 1)] * 40 + [(0, 1), (1, 0)] * 20)
    text = signs(worse, TRAIN)
    assert "overfitting: accuracy 1.0000 on training samples, 0.6667 on the test" in text


def test_one_answer_for_all_is_a_collapse() -> None:
    text = signs(rows([(0, 0), (1, 0)] * 30))
    assert "collapse: 100% of the predictions are ant, but only 50% of the test samples" in text


def test_guessing_is_no_better_than_one_answer() -> None:
    text = signs(rows([(0, 0), (1, 0), (0, 1), (1, 1)] * 15))
    assert "no better than a constant prediction: test accuracy 0.5000 [0.3" in text
    assert "always predicting ant has 0.5000" in text


@pytest.mark.parametrize(("confidence", "word"), [(0.999, "high"), (0.55, "low")])
def test_bad_calibration_is_said_with_its_direction(confidence, word) -> None:
    pairs = [(0, 0)] * 40 + [(1, 1)] * 40 + [(0, 1), (1, 0)] * 10
    text = signs(rows(pairs, confidence=confidence))
    assert f"badly calibrated: mean confidence {confidence:.4f} is too {word}" in text


def test_a_rising_validation_loss_is_said() -> None:
    history = [
        {"epoch": epoch, "val/loss": loss} for epoch, loss in enumerate([1.0, 0.5, 0.6, 0.7], 1)
    ]
    assert "rises: from 0.5000 in epoch 2 to 0.7000 at the end" in signs(GOOD, history=history)
    assert signs(GOOD, history=history[:3]) == ""


def test_a_penalty_that_outweighs_the_loss_is_said() -> None:
    history = [{"epoch": 1, "train/loss": 0.5, "train/penalty": 20.0}]
    low = rows([(1, 1)] * 11 + [(0, 1), (1, 0)] * 5, dataset="train")
    text = signs(GOOD, low, history=history, weight=0.1)
    assert "over-regularized: lambda * kappa is 400% of the loss" in text
    assert "over-regularised" not in signs(GOOD, TRAIN, history=history, weight=0.1)


def test_answers_are_drawn_in_rows() -> None:
    pixels = np.zeros((1, 8, 8), dtype=np.uint8)
    answer = Answer(pixels, truth="ant", prediction="bee", confidence=0.5)
    assert answers_image([answer]).shape == (126, 96, 3)
    assert answers_image([answer] * 9).shape == (252, 768, 3)
    with pytest.raises(ValueError, match="no prediction to draw"):
        answers_image([])
