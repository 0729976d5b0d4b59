"""Quantiles of Student's distribution, which torch does not have."""

from __future__ import annotations

import math


def t_quantile(p: float, freedom: int) -> float:
    """Return the ``p`` quantile of Student's t distribution.

    It is found by bisection on the finite series of the distribution function (Abramowitz and
    Stegun, *Handbook of Mathematical Functions*, 26.7.3 and 26.7.4).

    Args:
        p: A probability of at least 1/2 and below 1.
        freedom: Degrees of freedom, at least 1.

    Example:
        >>> round(t_quantile(0.975, 1), 3), round(t_quantile(0.975, 15), 3)
        (12.706, 2.131)
    """
    low, high = 0.0, math.pi / 2  # bounds of the angle atan(t / sqrt(freedom))
    for _ in range(80):
        middle = (low + high) / 2
        if (1 + _central(middle, freedom)) / 2 < p:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _central(angle: float, freedom: int) -> float:
    """Return the probability of values between ``-t`` and ``t``."""
    odd = freedom % 2 == 1
    square, total = math.cos(angle) ** 2, 0.0
    term = math.cos(angle) if odd else 1.0
    for k in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= square * (k + 1) / (k + 2)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
