"""Power analysis: the difference that pairs can detect, and the number of pairs needed."""

from __future__ import annotations

import math
from functools import lru_cache

POWER = 0.8
_MOST_PAIRS = 100_000


def detectable_difference(
    std: float, n: int, *, level: float = 0.05, power: float = POWER
) -> float | None:
    """Return the difference that a paired test shows with the given power.

    Of the two-sided paired t test, whose power is close to that of the permutation test; whose p
    value, 2 / 2^n at least, must be able to fall to the level as well.

    Args:
        std: Standard deviation of the paired differences.
        n: Number of pairs.
        level: Significance level of the test; for k comparisons under Holm, that over k is safe.
        power: Probability that a difference as large is shown.

    Returns:
        In units of ``std``'s; None where so few pairs show no difference, however large.

    Raises:
        ValueError: If ``std`` is negative or not finite, or ``level`` or ``power`` is not between
            0 and 1.

    Example:
        >>> round(detectable_difference(0.01, 8), 4)
        0.0116
        >>> detectable_difference(0.01, 5) is None  # no p value below 2 / 2^5
        True
    """
    _check(std, level, power)
    if n < fewest_pairs(level):
        return None
    return std * _effect(n, level, power)


def pairs_needed(
    difference: float, std: float, *, level: float = 0.05, power: float = POWER
) -> int | None:
    """Return the number of pairs that show a difference with the given power.

    Args:
        difference: The true mean difference; its sign does not matter.
        std: Standard deviation of the paired differences.
        level: As in `detectable_difference`.
        power: As there.

    Returns:
        The smallest number; None beyond 100,000.

    Raises:
        ValueError: As `detectable_difference`, or if the difference is 0 or not finite.

    Example:
        >>> pairs_needed(0.01, 0.01), pairs_needed(0.005, 0.01), pairs_needed(0.1, 0.01)
        (10, 34, 6)
    """
    _check(std, level, power)
    if not difference or not math.isfinite(difference):
        raise ValueError(f"difference must be a number other than 0, got {difference}.")
    low = fewest_pairs(level)
    if std * _effect(low, level, power) <= abs(difference):
        return low
    if std * _effect(_MOST_PAIRS, level, power) > abs(difference):
        return None
    high = _MOST_PAIRS
    while high - low > 1:
        middle = (low + high) // 2
        if std * _effect(middle, level, power) <= abs(difference):
            high = middle
        else:
            low = middle
    return high


def fewest_pairs(level: float) -> int:
    """Return the number of pairs at which an exact two-sided permutation test can reach the level.

    Example:
        >>> fewest_pairs(0.05), fewest_pairs(0.05 / 6)
        (6, 8)
    """
    return max(2, math.ceil(math.log2(2 / level)))


@lru_cache(maxsize=4096)
def _effect(n: int, level: float, power: float) -> float:
    """Return the mean, in standard deviations, that the t test of n pairs detects."""
    from scipy import optimize, stats

    freedom = n - 1
    critical = float(stats.t.ppf(1 - level / 2, freedom))

    def lacks(shift: float) -> float:
        # The other tail is below 1e-6 if the power is large, and scipy's is NaN far out.
        return float(stats.nct.sf(critical, freedom, shift)) - power

    high = critical
    while lacks(high) < 0:
        high *= 1.5
    return float(optimize.brentq(lacks, 0.0, high)) / math.sqrt(n)


def _check(std: float, level: float, power: float) -> None:
    if not (std >= 0 and math.isfinite(std)):
        raise ValueError(f"std must be a number of at least 0, got {std}.")
    for name, value in (("level", level), ("power", power)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}.")
