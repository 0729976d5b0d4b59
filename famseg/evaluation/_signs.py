"""Failure signatures of the method, read off the numbers and said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

History = Sequence[Mapping[str, float | None]]
PenaltyKind = Literal["none", "relative_flatness", "weight_decay", "jacobian_norm"]

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


class _Penalty(NamedTuple):
    """What is said of a kind of penalty.

    Attributes:
        value: What is penalized.
        term: The term of the objective.
        zero: What it means that the value is 0 throughout, and what to do.
        cheaper: What to do where it is expensive; ``None`` where it never is.
    """

    value: str
    term: str
    zero: str
    cheaper: str | None


_FLATNESS = _Penalty(
    "kappa",
    "lambda * kappa",
    "The layer cannot matter for the loss, or its curvature is negative everywhere "
    "(penalty.bound). Choose another layer.",
    "Set penalty.every higher (the mean gradient stays), or leave penalty.estimator and "
    "penalty.samples at auto.",
)
_PENALTIES: Mapping[PenaltyKind, _Penalty] = {
    "none": _FLATNESS,  # of which nothing is said
    "relative_flatness": _FLATNESS,
    "weight_decay": _Penalty(
        "||W||^2",
        "lambda * ||W||^2",
        "All weights of the layer are 0. Lower lambda, or choose another layer.",
        None,
    ),
    "jacobian_norm": _Penalty(
        "||J||^2",
        "lambda / 2 * ||J||^2",
        "The outputs do not depend on the input. Lower lambda, or train longer.",
        "Set penalty.projections to 1, or leave the penalty out.",
    ),
}


def penalty_term(kind: PenaltyKind) -> str:
    """Return how the term of a penalty is written.

    Example:
        >>> penalty_term("relative_flatness"), penalty_term("weight_decay")
        ('lambda * kappa', 'lambda * ||W||^2')
    """
    return _PENALTIES[kind].term


def failure_signs(
    history: History,
    *,
    weight: float,
    kind: PenaltyKind = "relative_flatness",
    variance_ratios: Mapping[str, float | None] | None = None,
    key_metric: str = "dsc",
) -> list[str]:
    """Return one sentence for each known failure of flatness regularisation that shows.

    Args:
        history: One mapping an epoch, as in ``metrics.jsonl``.
        weight: lambda; without a penalty only overfitting and collapse are looked for.
        kind: What is penalized: the ``kind`` of the configuration's ``penalty``.
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
        *(_cost(history, kind) + _effect(history, weight, kind) if weight != 0 else []),
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
    """Return the penalty's term over the loss, mean of the last tenth of the epochs.

    Args:
        history: One mapping an epoch, as in ``metrics.jsonl``.
        weight: lambda; below 0 the share is, too.

    Returns:
        ``None`` where no epoch has a penalty.
    """
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


def _cost(history: History, kind: PenaltyKind) -> list[str]:
    share, cheaper = penalty_time_share(history), _PENALTIES[kind].cheaper
    if share is None or share <= EXPENSIVE_SHARE or cheaper is None:
        return []
    return [f"penalty too expensive: it takes {share:.0%} of the training time. {cheaper}"]


def _effect(history: History, weight: float, kind: PenaltyKind) -> list[str]:
    share, penalty = penalty_effect_share(history, weight), _PENALTIES[kind]
    if share is None:
        return []
    if share == 0:
        return [f"penalty without effect: {penalty.value} was 0 throughout. {penalty.zero}"]
    if abs(share) >= EFFECT_SHARE:
        return []
    stronger = "Raise lambda" if weight > 0 else "Set lambda further below 0"
    other = ", or choose another layer" if kind != "jacobian_norm" else ""
    return [
        f"penalty without effect: {penalty.term} is {share:.2%} of the loss at the end of the "
        f"training, less than {EFFECT_SHARE:.0%}. {stronger}{other}."
    ]


def _number(row: Mapping[str, Any], key: str) -> float:
    return float(row[key])
