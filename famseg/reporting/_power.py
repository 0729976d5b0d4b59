"""The power of a comparison: which difference its seeds can detect, and how many are needed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from famseg.reporting._compare import Comparison
from famseg.reporting._words import LEVEL, counted_pairs, label_of
from famseg.statistics import POWER, detectable_difference, fewest_pairs, pairs_needed

_SHARES = (0.005, 0.01, 0.02)
_PARTS = (0.01, 0.02, 0.05)  # fractions of the baseline's mean, if the metric is not a share
_SHARE = "0 to 1"


@dataclass(frozen=True)
class Power:
    """The differences that pairs can detect in a metric.

    Attributes:
        group: The group compared with the baseline.
        n: Number of pairs.
        std: Standard deviation of their differences.
        level: Significance level: 0.05 divided by the number of groups, as in Holm's method for the
            smallest p.
        detectable: The difference that is detected with a probability of 0.8; None if there are too
            few pairs.
        fewest: The smallest number of pairs that can detect a difference.
        needed: Number of pairs that detect a difference with this probability; None above 100,000.
    """

    group: str
    n: int
    std: float
    level: float
    detectable: float | None
    fewest: int
    needed: dict[float, int | None]


def powers(comparison: Comparison, metric: str, wanted: Sequence[float] = ()) -> list[Power]:
    """Return the power of the pairs of each group in a metric.

    Args:
        comparison: From ``compare_runs``.
        metric: The metric.
        wanted: Differences to detect; empty for 0.005, 0.01 and 0.02 if the metric is a share, else
            for 1, 2 and 5 % of the baseline's mean.
    """
    groups = [g.name for g in comparison.study.groups if (g.name, metric) in comparison.pairings]
    level = LEVEL / max(1, len(groups))
    found = []
    for name in groups:
        values = [each.value for each in comparison.differences[name, metric]]
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        if not std:
            continue
        asked = tuple(wanted) or _usual(comparison, metric)
        found.append(
            Power(
                group=name,
                n=len(values),
                std=std,
                level=level,
                detectable=detectable_difference(std, len(values), level=level),
                fewest=fewest_pairs(level),
                needed={x: pairs_needed(x, std, level=level) for x in asked},
            )
        )
    return found


def _usual(comparison: Comparison, metric: str) -> tuple[float, ...]:
    if label_of(metric).unit == _SHARE:
        return _SHARES
    figures = comparison.figures.get((comparison.baseline or "", metric))
    mean = abs(figures.mean) if figures else 0.0
    return tuple(float(f"{part * mean:.2g}") for part in _PARTS if mean)


def power_words(power: Power, comparison: Comparison, metric: str) -> str:
    """Return the detectable difference as the end of a sentence."""
    if power.detectable is None:
        return f"it takes {counted_pairs(comparison.by, power.fewest)} or more"
    pairs = counted_pairs(comparison.by, power.n)
    return f"{pairs} could show {amount(power.detectable, metric)}"


def amount(value: float, metric: str) -> str:
    """Return a difference with at least two digits, and its unit."""
    label = label_of(metric)
    digits = label.digits if not value else max(label.digits, 1 - math.floor(math.log10(value)))
    unit = f" {label.unit}" if label.unit in ("mm", "s", "cases") else ""
    return f"{value:.{min(digits, 8)}f}{unit}"


DEFINITION = (
    f"could show: the difference that the pairs show with a probability of {POWER:g}, two-sided at "
    f"{LEVEL:g} over the number of groups; pairs for: how many show such a difference"
)
