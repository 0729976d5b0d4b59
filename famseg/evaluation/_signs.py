"""Failure signatures of the method, read off the numbers and said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

History = Sequence[Mapping[str, float | None]]

# A penalty that takes more than this share of the training time is called expensive, one that adds
# less than this share of the loss is called without effect.
EXPENSIVE_SHARE = 0.5
EFFECT_SHARE = 0.01
# A network whose outputs vary less than this share of the truth gives nearly everybody one shape.
COLLAPSED_RATIO = 0.1
# A training loss that fell by this share over the second half of the training counts as falling,
# a validation that rose by less than this much counts as stalled.
FALLING = 0.05
STALLED = 0.005


def failure_signs(
    history: History,
    *,
    weight: float,
    variance_ratios: Mapping[str, float | None] | None = None,
    key_metric: str = "dsc",
) -> list[str]:
    """Return one sentence for each known failure of flatness regularisation that shows.

    Args:
        history: One mapping an epoch, as in ``metrics.jsonl``.
        weight: lambda; without a penalty only overfitting and collapse are looked for.
        variance_ratios: Output variance over truth variance of each test set; None where outputs
            are no shapes.
        key_metric: Name of the validation metric.

    Returns:
        Sentences with the numbers they rest on; empty if nothing shows.

    Example:
        >>> history = [{"epoch": 1, "train/loss": 0.5, "train/penalty": 0.1}]
        >>> failure_signs(history, weight=0.001, variance_ratios={})[0][:50]
        'penalty without effect: lambda * kappa is 0.02% of'
    """
    return [
        *_collapse(variance_ratios or {}, weight),
        *_stall(history, weight, key_metric),
        *(_cost(history) + _effect(history, weight) if weight > 0 else []),
    ]


def penalty_time_share(history: History) -> float | None:
    """Return the penalty's share of the training time, in [0, 1]; None if it was not measured."""
    plain = penalised = 0.0
    for row in history:
        base, seconds = row.get("train/seconds_plain_step"), row.get("train/seconds")
        steps, measured = row.get("train/steps"), row.get("train/seconds_penalised_step")
        if base is not None and seconds is not None and steps is not None and measured is not None:
            plain += base * steps
            penalised += seconds
    return max(0.0, 1 - plain / penalised) if penalised else None


def penalty_effect_share(history: History, weight: float) -> float | None:
    """Return lambda * kappa over the loss, mean of the last tenth of the epochs; None without."""
    rows = [
        row
        for row in history[-max(1, len(history) // 10) :]
        if row.get("train/penalty") is not None and row.get("train/loss")
    ]
    if not rows:
        return None
    shares = [weight * _number(row, "train/penalty") / _number(row, "train/loss") for row in rows]
    return sum(shares) / len(shares)


def _collapse(ratios: Mapping[str, float | None], weight: float) -> list[str]:
    low = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    if not low or max(low.values()) >= COLLAPSED_RATIO:
        return []
    listed = ", ".join(f"{name} {ratio:.3f}" for name, ratio in low.items())
    cure = "Lower lambda." if weight > 0 else "Train longer or raise the learning rate."
    return [
        f"collapse: the outputs hardly depend on the input (variance ratio {listed}; 1 = they vary "
        f"as the truth, 0 = one mean skull for everybody). {cure}"
    ]


def _stall(history: History, weight: float, key: str) -> list[str]:
    half = [row for row in history[len(history) // 2 :] if row.get("train/loss") is not None]
    validated = [row for row in half if row.get(f"val/{key}") is not None]
    if len(half) < 4 or len(validated) < 2:
        return []
    before, after = _number(half[0], "train/loss"), _number(half[-1], "train/loss")
    rise = max(_number(row, f"val/{key}") for row in validated[1:]) - _number(
        validated[0], f"val/{key}"
    )
    if before <= 0 or (before - after) / before < FALLING or rise >= STALLED:
        return []
    what = "over-regularised, or overfitting" if weight > 0 else "overfitting"
    cure = "Compare with another lambda." if weight > 0 else "A penalty (lambda > 0) may help."
    return [
        f"{what}: over the second half of the training the loss fell from {before:.4f} to "
        f"{after:.4f} while the validation {key} changed by {rise:+.4f}. {cure}"
    ]


def _cost(history: History) -> list[str]:
    share = penalty_time_share(history)
    if share is None or share <= EXPENSIVE_SHARE:
        return []
    return [
        f"penalty too expensive: it takes {share:.0%} of the training time. Set penalty.every "
        "higher (the expectation stays), or take estimator hutchinson with one probe."
    ]


def _effect(history: History, weight: float) -> list[str]:
    share = penalty_effect_share(history, weight)
    if share is None:
        return []
    if share == 0:
        return [
            "penalty without effect: kappa was 0 throughout. The layer cannot matter for the loss, "
            "or its curvature is negative everywhere (penalty.bound). Choose another layer."
        ]
    if share >= EFFECT_SHARE:
        return []
    return [
        f"penalty without effect: lambda * kappa is {share:.2%} of the loss at the end of the "
        f"training, below {EFFECT_SHARE:.0%}. Raise lambda, or choose another layer."
    ]


def _number(row: Mapping[str, Any], key: str) -> float:
    return float(row[key])
