"""Signs of a failed training, detected in the numbers and described in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

History = Sequence[Mapping[str, float | None]]
PenaltyKind = Literal["none", "relative_flatness", "weight_decay", "jacobian_norm"]

# Share of the training time above which a penalty is called expensive.
EXPENSIVE_SHARE = 0.5
# Share of the loss below which a penalty is called ineffective. The value of the penalty says
# little about its gradient: where lambda * kappa was below 1 % of the loss, its thinned steps had
# 1.7 times the gradient of the loss in the layer's weight. The threshold is therefore so low that
# no gradient can compensate for it.
EFFECT_SHARE = 1e-6
# Variance ratios below which a network predicts nearly the same shape for all cases, and above
# which it predicts noise.
COLLAPSED_RATIO = 0.1
SCATTERED_RATIO = 2.0
# More bone than in any defect, so that the addition is not an implant.
SURPLUS_ML = 500.0
# Relative decrease of the training loss in the second half above which it counts as decreasing, and
# increase of the validation metric below which it counts as stalled.
FALLING = 0.05
STALLED = 0.005


class _Penalty(NamedTuple):
    """The texts about a kind of penalty.

    Attributes:
        value: The penalized quantity.
        term: The term of the objective.
        zero: The meaning of a value that is always 0, with advice.
        cheaper: Advice if it is expensive: the cheapest settings, each with advice for other
            values, and general advice. ``None`` if it is never expensive.
    """

    value: str
    term: str
    zero: str
    cheaper: tuple[Mapping[str, tuple[str, str]], str] | None


_FLATNESS = _Penalty(
    "kappa",
    "lambda * kappa",
    "The layer cannot matter for the loss, or its curvature is negative everywhere "
    "(penalty.bound). Choose another layer.",
    (
        {
            "penalty.estimator": ("auto", "leave penalty.estimator at auto"),
            "penalty.samples": ("auto", "leave penalty.samples at auto"),
        },
        "set penalty.every higher (the mean gradient stays)",
    ),
)
_PENALTIES: Mapping[PenaltyKind, _Penalty] = {
    "none": _FLATNESS,  # never used in a sentence
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
        ({"penalty.projections": ("1", "set penalty.projections to 1")}, "leave the penalty out"),
    ),
}


def penalty_term(kind: PenaltyKind) -> str:
    """Return the term of a penalty in the objective.

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
    metrics: Mapping[str, float] | None = None,
    settings: Mapping[str, object] | None = None,
    key_metric: str = "dsc",
) -> list[str]:
    """Return one sentence for each known sign of a failed training.

    Args:
        history: One mapping per epoch, as in ``metrics.jsonl``.
        weight: lambda; without a penalty only overfitting and collapse are checked.
        kind: The ``kind`` of the configuration's ``penalty``.
        variance_ratios: Variance of the predictions over that of the references, by test set; None
            where they are not shapes.
        metrics: Test metrics of shapes as `flat_metrics` names them: compared with the mean skull,
            and checked for surplus bone.
        settings: Keys and values of the configuration, so that no advice names a setting that is
            set already.
        key_metric: Name of the validation metric.

    Returns:
        Sentences with the numbers they are based on; empty if there is no sign.

    Example:
        >>> metrics = {"test/set1/skull/dsc": 0.145, "test/set1/mean_skull/skull/dsc": 0.527}
        >>> failure_signs([], weight=0.0, metrics=metrics)[0][:59]
        'worse than the mean skull: skull DSC set1 0.145, mean skull'
    """
    penalty = _cost(history, kind, settings or {}) + _effect(history, weight, kind)
    return [
        *_variance(variance_ratios or {}, weight),
        *_worse_than_mean(metrics or {}, weight),
        *_surplus(metrics or {}),
        *_stall(history, weight, key_metric),
        *(penalty if weight != 0 else []),
    ]


def penalty_time_share(history: History) -> float | None:
    """Return the penalty's share of the training time, in [0, 1]; None if it was not measured.

    If there are several epochs, the first one, in which the penalty analyzes the network, is
    excluded.
    """
    plain = penalized = 0.0
    for row in history[1:] or history:
        base, seconds = row.get("train/seconds_plain_step"), row.get("train/seconds")
        steps, measured = row.get("train/steps"), row.get("train/seconds_penalised_step")
        if base is not None and seconds is not None and steps is not None and measured is not None:
            plain += base * steps
            penalized += seconds
    return max(0.0, 1 - plain / penalized) if penalized else None


def penalty_effect_share(history: History, weight: float) -> float | None:
    """Return the ratio of the penalty term to the loss, as a mean of the last tenth of the epochs.

    Args:
        history: One mapping per epoch, as in ``metrics.jsonl``.
        weight: lambda; if it is negative, so is the share.

    Returns:
        ``None`` if no epoch has a penalty.
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


def _variance(ratios: Mapping[str, float | None], weight: float) -> list[str]:
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    listed = ", ".join(f"{name} {ratio:.3f}" for name, ratio in known.items())
    if known and max(known.values()) < COLLAPSED_RATIO:
        cure = "Lower lambda." if weight > 0 else "Train longer or raise the learning rate."
        return [
            "collapse: the predictions hardly depend on the input (variance ratio "
            f"{listed}; 1 = they vary as the references, 0 = the same mean skull for everyone). "
            f"{cure}"
        ]
    if known and max(known.values()) > SCATTERED_RATIO:
        return [
            f"scatter: the predictions vary more than the references (variance ratio {listed}; 1 = "
            f"as much): they are not skulls yet. {_longer(weight)}"
        ]
    return []


def _worse_than_mean(metrics: Mapping[str, float], weight: float) -> list[str]:
    worse = []
    for name in _sets(metrics):
        own = metrics.get(f"test/{name}/skull/dsc")
        mean = metrics.get(f"test/{name}/mean_skull/skull/dsc")
        if own is not None and mean is not None and own < mean:
            worse.append(f"{name} {own:.3f}, mean skull {mean:.3f}")
    if not worse:
        return []
    return [
        f"worse than the mean skull: skull DSC {'; '.join(worse)}. The mean of the training skulls "
        f"completes a skull better than this network does. {_longer(weight)}"
    ]


def _surplus(metrics: Mapping[str, float]) -> list[str]:
    found: dict[str, float] = {}
    for name in _sets(metrics):
        for region in ("implant", "skull"):
            difference = metrics.get(f"test/{name}/{region}/volume_difference_ml", 0.0)
            if difference > SURPLUS_ML:
                found.setdefault(name, difference)
    if not found:
        return []
    listed = ", ".join(f"{name} {millilitres / 1000:.1f} l" for name, millilitres in found.items())
    return [
        f"surplus bone: the predictions have more bone than the references ({listed} on average); "
        "no implant can be made of them. Train longer or raise the learning rate."
    ]


def _sets(metrics: Mapping[str, float]) -> list[str]:
    return list(dict.fromkeys(name.split("/")[1] for name in metrics if name.startswith("test/")))


def _longer(weight: float) -> str:
    other = "; compare with lambda=0" if weight != 0 else ""
    return f"Train longer or raise the learning rate{other}."


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
    what = "over-regularized, or overfitting" if weight > 0 else "overfitting"
    cure = "Compare with another lambda." if weight > 0 else "A penalty (lambda > 0) may help."
    return [
        f"{what}: over the second half of the training the loss fell from {before:.4f} to "
        f"{after:.4f} while the validation {key} changed by {rise:+.4f}. {cure}"
    ]


def _cost(history: History, kind: PenaltyKind, settings: Mapping[str, object]) -> list[str]:
    share, cheaper = penalty_time_share(history), _PENALTIES[kind].cheaper
    if share is None or share <= EXPENSIVE_SHARE or cheaper is None:
        return []
    cheapest, always = cheaper
    # An unknown setting counts as different from the cheapest.
    advice = [do for key, (best, do) in cheapest.items() if str(settings.get(key)) != best]
    text = ", or ".join([*advice, always])
    text = f"{text[:1].upper()}{text[1:]}."
    return [f"penalty too expensive: it takes {share:.0%} of the training time. {text}"]


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
        f"penalty without effect: {penalty.term} is {share:.1g} of the loss at the end of the "
        f"training, less than {EFFECT_SHARE:g}. {stronger}{other}."
    ]


def _number(row: Mapping[str, Any], key: str) -> float:
    return float(row[key])
