"""The results of a classifier as text: the table of metrics and signs of a failed training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from famseg.evaluation.classification._summary import GAP, MAJORITY, sets_of
from famseg.evaluation.skulls import (
    History,
    PenaltyKind,
    failure_signs,
    penalty_effect_share,
    penalty_term,
)
from famseg.messages import text_table

# Difference of training and test accuracy above which a network is called overfitted.
GAP_SIGN = 0.1
# Share of one class in the predictions above which the network is called collapsed.
ONE_ANSWER = 0.95
# Expected calibration error at or above which it is reported.
ECE_SIGN = 0.1
# Ratio of the last to the lowest validation loss above which it is called rising.
RISEN = 1.25
# Ratio of penalty to loss above which the penalty is called dominant.
OUTWEIGHS = 1.0

# The rows of the table: header and the text of a cell.
_ROWS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("samples", lambda part: str(part["n"])),
    ("accuracy", lambda part: _figures(part["accuracy"])),
    ("error", lambda part: _figures(part["error"])),
    ("balanced accuracy", lambda part: f"{part['balanced_accuracy']:.4f}"),
    ("loss", lambda part: _figures(part["loss"])),
    ("mean confidence", lambda part: f"{part['confidence']:.4f}"),
    ("ECE, 15 bins", lambda part: f"{part['ece']:.4f}"),
    ("failed", lambda part: str(part["failed"])),
)


def classification_table(summary: Mapping[str, Any]) -> str:
    """Return the summary as plain text: one column per set, the gap and the hardest classes.

    Args:
        summary: As ``evaluate_classification`` returns it.

    Returns:
        Means with 95 % intervals; without a newline at the end. Fits 88 columns for two sets.
    """
    sets = list(sets_of(summary))
    lines = [[header, *(cell(part) for _, part in sets)] for header, cell in _ROWS]
    text = [text_table(["", *(name for name, _ in sets)], lines)]
    if GAP in summary:
        gap = summary[GAP]
        text.append(f"accuracy, train minus test: {_signed(gap['accuracy'])}")
        text.append(f"loss, test minus train: {_signed(gap['loss'])}")
    if MAJORITY in summary:
        majority = summary[MAJORITY]
        text.append(f"always predicting {majority['class']}: accuracy {majority['accuracy']:.4f}")
    text += [f"{name}, lowest accuracy: {_lowest(part)}" for name, part in sets[:1]]
    notes = ["in brackets 95 % intervals: Wilson's for shares, 1.96 standard errors for the loss"]
    if any(part["failed"] for _, part in sets):
        notes.append(
            "failed: logits that are not finite; counted as wrong with confidence 1 and loss 87.34"
        )
    return "\n".join([*text, "", *notes])


def classification_signs(
    history: History,
    summary: Mapping[str, Any],
    *,
    weight: float,
    kind: PenaltyKind = "relative_flatness",
    settings: Mapping[str, object] | None = None,
    key_metric: str = "accuracy",
) -> list[str]:
    """Return one sentence for each known sign of failure of a classifier.

    Args:
        history: One mapping per epoch, as in ``metrics.jsonl``.
        summary: As ``evaluate_classification`` returns it.
        weight: lambda; 0 for a run without penalty.
        kind: The ``kind`` of the configuration's ``penalty``.
        settings: Keys and values of the configuration, see `failure_signs`.
        key_metric: Name of the validation metric.

    Returns:
        Sentences with the numbers they are based on; empty if there is no sign.

    Example:
        >>> history = [{"epoch": 1, "train/loss": 0.5, "train/penalty": 0.0}]
        >>> classification_signs(history, {}, weight=0.1)[0]
        'penalty without effect: kappa was 0 throughout. The layer cannot matter for the loss, ...
    """
    return [
        *_failed(summary),
        *_no_better_than_one_answer(summary),
        *_overfitting(summary),
        *_calibration(summary),
        *_rising_loss(history),
        *_outweighed(history, summary, weight, kind),
        *failure_signs(history, weight=weight, kind=kind, settings=settings, key_metric=key_metric),
    ]


def _failed(summary: Mapping[str, Any]) -> Iterator[str]:
    for name, part in sets_of(summary):
        if part["failed"]:
            yield (
                f"{name}: {part['failed']} of {part['n']} samples have logits that are not finite; "
                "they count as wrong. Lower the learning rate, or set training.clip_norm."
            )


def _no_better_than_one_answer(summary: Mapping[str, Any]) -> Iterator[str]:
    if MAJORITY not in summary:
        return
    test, majority = summary["test"], summary[MAJORITY]
    classes = test["per_class"]
    most = max(classes, key=lambda name: classes[name]["predicted"])
    share = classes[most]["predicted"] / test["n"]
    if share > ONE_ANSWER and classes[most]["n"] / test["n"] < ONE_ANSWER:
        yield (
            f"collapse: {share:.0%} of the predictions are {most}, but only "
            f"{classes[most]['n'] / test['n']:.0%} of the test samples. Lower the learning rate or "
            "lambda, or train longer."
        )
    elif test["accuracy"]["low"] <= majority["accuracy"]:
        yield (
            f"no better than a constant prediction: test accuracy {_figures(test['accuracy'])}, "
            f"always predicting {majority['class']} has {majority['accuracy']:.4f}. Train longer, "
            "or raise the learning rate."
        )


def _overfitting(summary: Mapping[str, Any]) -> Iterator[str]:
    gap = summary[GAP]["accuracy"] if GAP in summary else None
    if gap is not None and gap["mean"] >= GAP_SIGN and gap["low"] > 0:
        train, test = (summary[name]["accuracy"]["mean"] for name in ("train", "test"))
        yield (
            f"overfitting: accuracy {train:.4f} on training samples, {test:.4f} on the test. More "
            "data or augmentation, weight decay or a penalty may help."
        )


def _calibration(summary: Mapping[str, Any]) -> Iterator[str]:
    test = summary.get("test")
    if test is None or test["ece"] < ECE_SIGN:
        return
    # A small sample has an ECE above 0 by chance, but its accuracy is then also uncertain.
    if test["accuracy"]["low"] <= test["confidence"] <= test["accuracy"]["high"]:
        return
    accuracy = test["accuracy"]["mean"]
    too = "high" if test["confidence"] > accuracy else "low"
    yield (
        f"badly calibrated: mean confidence {test['confidence']:.4f} is too {too} for an accuracy "
        f"of {accuracy:.4f} (ECE {test['ece']:.4f}). Do not read confidence as probability."
    )


def _rising_loss(history: History) -> Iterator[str]:
    found = [(row["epoch"], row["val/loss"]) for row in history if row.get("val/loss") is not None]
    losses = [float(loss) for _, loss in found if loss is not None]
    if len(losses) < 4 or losses[-1] < RISEN * min(losses):
        return
    lowest = min(losses)
    yield (
        f"validation loss rises: from {lowest:.4f} in epoch "
        f"{found[losses.index(lowest)][0]:.0f} to {losses[-1]:.4f} at the end. Wrong predictions "
        "become more confident; kappa falls with confidence by itself, so compare it at equal loss."
    )


def _outweighed(
    history: History, summary: Mapping[str, Any], weight: float, kind: PenaltyKind
) -> Iterator[str]:
    share = penalty_effect_share(history, weight) if weight > 0 else None
    train = summary.get("train")
    if share is None or share < OUTWEIGHS or train is None or train["accuracy"]["mean"] > 0.9:
        return
    yield (
        f"over-regularized: {penalty_term(kind)} is {share:.0%} of the loss at the end of the "
        "training, and training samples reach an accuracy of only "
        f"{train['accuracy']['mean']:.4f}. Lower lambda."
    )


def _figures(figures: Mapping[str, float | None]) -> str:
    text = f"{figures['mean']:.4f}"
    if figures["low"] is not None:
        text += f" [{figures['low']:.4f}, {figures['high']:.4f}]"
    return text


def _signed(figures: Mapping[str, float | None]) -> str:
    text = f"{figures['mean']:+.4f}"
    if figures["low"] is not None:
        text += f" [{figures['low']:+.4f}, {figures['high']:+.4f}]"
    return text


def _lowest(part: Mapping[str, Any], count: int = 3) -> str:
    found = [(each["accuracy"], name) for name, each in part["per_class"].items() if each["n"]]
    chosen: Sequence[tuple[float, str]] = sorted(found)[:count]
    return ", ".join(
        f"{name} {accuracy:.3f} (n {part['per_class'][name]['n']})" for accuracy, name in chosen
    )
