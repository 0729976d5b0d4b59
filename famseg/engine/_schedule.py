"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal


def learning_rate_factor(
    epoch: float,
    *,
    epochs: int,
    kind: Literal["constant", "cosine", "linear", "step"] = "constant",
    warmup: float = 0.0,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    floor: float = 0.0,
) -> float:
    """Return the factor of the base learning rate at a point in the training.

    Args:
        epoch: The time in epochs, which may be fractional.
        epochs: Length of the training in epochs.
        kind: ``constant``; ``cosine`` and ``linear`` from 1 after the warm-up down to ``floor`` at
            the end; ``step``: times ``gamma`` at each milestone.
        warmup: Epochs in which the factor grows linearly from 0 to its value.
        milestones: Times of the steps, as fractions of the training in (0, 1).
        gamma: Factor of each step.
        floor: Lowest factor of ``cosine`` and ``linear``.

    Example:
        >>> learning_rate_factor(5, epochs=10, kind="cosine")
        0.5
        >>> learning_rate_factor(7, epochs=10, kind="step", milestones=(0.3, 0.6), gamma=0.5)
        0.25
        >>> learning_rate_factor(1, epochs=10, warmup=4)
        0.25
    """
    ramp = min(1.0, epoch / warmup) if warmup > 0 else 1.0
    if kind in ("cosine", "linear"):
        part = min(1.0, max(0.0, epoch - warmup) / max(epochs - warmup, 1e-12))
        left = 1 - part if kind == "linear" else (1 + math.cos(math.pi * part)) / 2
        return ramp * (floor + (1 - floor) * left)
    if kind == "step":
        passed = sum(epoch >= milestone * epochs for milestone in milestones)
        return float(ramp * gamma**passed)
    return ramp
