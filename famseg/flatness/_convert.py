"""Conversion of lambda between conventions of the penalty."""

from __future__ import annotations

import math
from typing import Literal, get_args

from famseg.flatness._check import check_choice, check_count
from famseg.flatness._errors import FlatnessError

Convention = Literal[
    "relative_flatness",
    "per_feature",
    "noise",
    "feature_noise",
    "simplified",
    "simplified_as_released",
]
_SIMPLIFIED = ("simplified", "simplified_as_released")


def convert_weight(
    value: float,
    *,
    source: Convention,
    target: Convention,
    features: int | None = None,
    weight_norm: float | None = None,
    ratio: float | None = None,
) -> float:
    r"""Return the lambda, or size of noise, that weighs a layer as much in another convention.

    What is added to the loss, for a layer of ``d`` neurons that see ``m`` features each:

    - ``"relative_flatness"``: :math:`\lambda \kappa`.
    - ``"per_feature"``: :math:`\lambda \kappa / m`, as in the code of Adilova et al. (*FAM*, 2023).
    - ``"noise"``: nothing; the weight becomes :math:`W (I + s Z)` with ``Z`` of mean 0 and variance
      1, which adds :math:`\tfrac{s^2}{2} \kappa` on average.
    - ``"feature_noise"``: nothing; the features become :math:`\phi + A \phi` as in
      `famseg.flatness.feature_robustness`, which adds :math:`\tfrac{\delta^2}{2m} \kappa` on
      average.
    - ``"simplified"``: :math:`\lambda \lVert W\rVert_F^2 \operatorname{tr} H` (Petzka et al. 2019).
    - ``"simplified_as_released"``: :math:`\lambda \lVert W\rVert_F \operatorname{tr} H`, as in that
      code, where the norm is not squared.

    How far a conversion holds:

    - Among the first four it is exact, for noise up to terms of fourth order in its size.
    - Between the two simplified ones the terms are equal **at the present weights only**, and their
      gradients are not: the one that is not squared pulls half as hard on the norm.
    - Relative flatness and the simplified measure are two quantities. With their ``ratio`` the
      terms are equal **at the present weights only**. It is ``1 / d`` where the rows of ``W`` are
      orthogonal and of one length, as they nearly are at initialization where ``d`` is much
      smaller than ``m``, or where the loss bends all outputs alike and apart, as squared error
      does. Elsewhere take it from `famseg.flatness.report`: ``row.kappa / row.simplified``.

    Args:
        value: Lambda, or the size of the noise; at least 0.
        source: Its convention.
        target: The convention wanted.
        features: ``m``: inputs that a neuron sees, for a convolution channels times kernel volume.
            For ``"per_feature"`` and ``"feature_noise"``.
        weight_norm: Frobenius norm of the weight. For ``"simplified_as_released"``.
        ratio: :math:`\kappa / (\lVert W\rVert_F^2 \operatorname{tr} H)`, above 0. Between relative
            flatness and a simplified measure.

    Raises:
        FlatnessError: If an argument is out of range, or one that the conversion needs is missing.

    Example:
        The authors trained a head of 10 x 64 with lambda 0.1; theirs is divided by m:

        >>> convert_weight(0.1, source="per_feature", target="relative_flatness", features=64)
        0.0015625

        As relative weight noise that is 5.6 %:

        >>> s = convert_weight(0.0015625, source="relative_flatness", target="noise")
        >>> round(s, 4)
        0.0559

        Their skulls had 0.002 on a layer of 64 x 8. Norm and ratio as measured in a training:

        >>> found = convert_weight(
        ...     0.002,
        ...     source="simplified_as_released",
        ...     target="relative_flatness",
        ...     weight_norm=4.6,
        ...     ratio=0.021,
        ... )
        >>> round(found, 4)  # 0.002 / 4.6 / 0.021
        0.0207
    """
    _check(value, source, target, features, weight_norm, ratio)

    def needed(argument: float | None, name: str) -> float:
        if argument is None:
            raise FlatnessError(
                f"from {source!r} to {target!r} convert_weight needs {name}; its documentation "
                "explains it."
            )
        return argument

    if source == target:
        return value
    # Convert to the lambda of kappa or of the simplified measure, between these, then to the
    # target.
    if source == "per_feature":
        value = value / needed(features, "features")
    elif source == "noise":
        value = value**2 / 2
    elif source == "feature_noise":
        value = value**2 / (2 * needed(features, "features"))
    elif source == "simplified_as_released":
        value = value / needed(weight_norm, "weight_norm")
    if source in _SIMPLIFIED and target not in _SIMPLIFIED:
        value = value / needed(ratio, "ratio")
    elif target in _SIMPLIFIED and source not in _SIMPLIFIED:
        value = value * needed(ratio, "ratio")
    if target == "per_feature":
        return value * needed(features, "features")
    if target == "noise":
        return math.sqrt(2 * value)
    if target == "feature_noise":
        return math.sqrt(2 * needed(features, "features") * value)
    if target == "simplified_as_released":
        return value * needed(weight_norm, "weight_norm")
    return value


def _check(
    value: float,
    source: Convention,
    target: Convention,
    features: int | None,
    weight_norm: float | None,
    ratio: float | None,
) -> None:
    check_choice("source", source, get_args(Convention))
    check_choice("target", target, get_args(Convention))
    if not (math.isfinite(value) and value >= 0):
        raise FlatnessError(f"value must be a finite number of at least 0, got {value!r}.")
    if features is not None:
        check_count("features", features)
    for name, number in (("weight_norm", weight_norm), ("ratio", ratio)):
        if number is not None and not (math.isfinite(number) and number > 0):
            raise FlatnessError(f"{name} must be a finite number above 0, got {number!r}.")
