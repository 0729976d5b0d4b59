"""Bootstrap intervals of scores, in which a failed case counts as a failure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Generator = np.random.Generator | int
Failed = Sequence[bool] | npt.ArrayLike | None
Statistic = Literal["mean", "median"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: Mean or median of the cases, failed ones included.
        low: Lower end; NaN for a single case, from which the spread cannot be estimated.
        high: Upper end.
        confidence: Its level, as 0.95.
        n: Number of cases, failed ones included.
        failed: How many of them failed.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    n: int
    failed: int

    def text(self, digits: int = 3) -> str:
        """Return ``mean +up -down (n, failed)``: both arms, for the interval is not symmetric.

        Example:
            >>> Interval(0.9, 0.85, 0.92, 0.95, 10, 1).text(2)
            '0.90 +0.02 -0.05 (n 10, failed 1)'
        """
        arms = ""
        if not math.isnan(self.low):
            up, down = self.high - self.estimate, self.estimate - self.low
            arms = f" +{up:.{digits}f} -{down:.{digits}f}"
        return f"{self.estimate:.{digits}f}{arms} (n {self.n}, failed {self.failed})"


def with_failures(
    values: npt.ArrayLike,
    failed: Failed = None,
    *,
    worst: float | None = None,
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return scores with every failed case at its worst value, and which failed.

    Args:
        values: One value per case, shape ``(n,)``, n at least 1.
        failed: Which cases failed, shape ``(n,)``; None for none.
        worst: The value of a failed case: 0 for a Dice coefficient, an image diagonal for a
            distance. None for the score it has.

    Returns:
        Scores, shape ``(n,)``, and ``failed`` as bool.

    Raises:
        ValueError: If the shapes do not fit, a score is not finite without ``worst`` and ``failed``
            to replace it, or a case that did not fail is worse than ``worst``.

    Example:
        >>> with_failures([0.9, float("nan")], [False, True], worst=0.0)[0]
        array([0.9, 0. ])
    """
    scores = np.array(values, dtype=np.float64)
    lost = np.zeros(scores.shape, dtype=bool) if failed is None else np.array(failed, dtype=bool)
    if scores.ndim != 1 or not scores.size or lost.shape != scores.shape:
        raise ValueError(
            f"values must have shape (n,), one value per case, and failed the same; got "
            f"{scores.shape} and {lost.shape}."
        )
    if worst is not None:
        others = scores[~lost]
        if others.size and others.min() < worst < others.max():
            raise ValueError(
                f"worst is {worst:g}, and scores lie on both sides of it. Give the end of the "
                "scale: 0 for dsc, bdsc and nsd, the largest possible distance for distances."
            )
        scores[lost] = worst
    if not np.isfinite(scores).all():
        place = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(
            f"the score of case {place} is {scores[place]}. Mark the case in failed and set worst "
            "to the value that a failure counts: cases are never dropped."
        )
    return scores, lost


def bootstrap_interval(
    values: npt.ArrayLike,
    failed: Failed = None,
    *,
    worst: float | None = None,
    statistic: Statistic = "mean",
    confidence: float = 0.95,
    resamples: int = 9999,
    generator: Generator = 0,
) -> Interval:
    """Return mean or median with its bootstrap confidence interval over cases.

    Bias-corrected and accelerated (Efron 1987). Where all cases score the same, it is that point. A
    failed case is resampled like any other, with its worst score. Below about 20 cases the interval
    is somewhat too short: 95 % ones of the mean of 10 normal scores cover about 90 %.

    Args:
        values: One value per case.
        failed: Which cases failed.
        worst: The value of a failed case; None for its own value.
        statistic: The statistic to estimate.
        confidence: Level of the interval.
        resamples: Number of bootstrap samples.
        generator: A generator, or the seed of a new one.

    Raises:
        ValueError: As ``with_failures``, or if ``confidence`` is not between 0 and 1.

    Example:
        >>> bootstrap_interval([0.8, 0.9, 0.85, 0.95, 0.0], [0, 0, 0, 0, 1]).text()
        '0.700 +0.190 -0.524 (n 5, failed 1)'
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}. Give 0.95.")
    scores, lost = with_failures(values, failed, worst=worst)
    function: Callable[..., Any] = np.mean if statistic == "mean" else np.median
    estimate = float(function(scores))
    low, high = (math.nan, math.nan) if len(scores) == 1 else (estimate, estimate)
    if np.ptp(scores) > 0:
        from scipy import stats  # the import takes half a second

        rng = np.random.default_rng(generator)
        # For the median of few cases BCa may have no acceleration, so percentiles are used.
        for method in ("BCa", "percentile"):
            with np.errstate(all="ignore"):
                found = stats.bootstrap(
                    (scores,),
                    function,
                    n_resamples=resamples,
                    batch=batch_of(len(scores)),
                    confidence_level=confidence,
                    method=method,
                    vectorized=True,
                    rng=rng,
                ).confidence_interval
            low, high = float(found.low), float(found.high)
            if math.isfinite(low) and math.isfinite(high):
                break
    return Interval(estimate, low, high, confidence, len(scores), int(lost.sum()))


def batch_of(cases: int) -> int:
    """Return the number of resamples held at a time for a number of cases: 80 MB of numbers."""
    return max(1, 10_000_000 // cases)


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    r"""Return a share with its score interval (Wilson 1927), which holds near 0 and 1 too.

    The ends are the shares ``p`` with :math:`\lvert \hat p - p \rvert = z \sqrt{p (1 - p) / n}`.

    Args:
        successes: The number of successes, for example of correct predictions.
        n: Number of cases, failed ones included.
        confidence: Level of the interval.

    Raises:
        ValueError: If the numbers are not a proportion, or ``confidence`` is not between 0 and 1.

    Example:
        >>> found = wilson_interval(8, 10)
        >>> found.estimate, round(found.low, 3), round(found.high, 3)
        (0.8, 0.49, 0.943)
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(
            f"{successes} of {n} is not a proportion: give 0 to n successes of n > 0 cases."
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}. Give 0.95.")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share, shrink = successes / n, 1 + z * z / n
    center = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends of the scale, rounding would leave 1e-17 instead of 0.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return Interval(share, low, high, confidence, n, 0)


def table_row(
    name: str,
    values: npt.ArrayLike,
    failed: Failed = None,
    *,
    worst: float | None = None,
    confidence: float = 0.95,
    digits: int = 3,
    generator: Generator = 0,
) -> str:
    """Return a row of a results table: name, mean with interval, n and failed cases.

    Args:
        name: The text in front.
        values: One value per case.
        failed: Which cases failed; they are in the mean and counted.
        worst: The value of a failed case; None for its own value.
        confidence: Level of the interval.
        digits: Decimals.
        generator: A generator, or the seed of a new one.

    Raises:
        ValueError: As ``bootstrap_interval``.

    Example:
        >>> table_row("HD95 mm", [2.0, 2.5, 3.0, 2.2], digits=1)
        'HD95 mm  2.4 +0.5 -0.3 (n 4, failed 0)'
    """
    found = bootstrap_interval(
        values, failed, worst=worst, confidence=confidence, generator=generator
    )
    return f"{name}  {found.text(digits)}"
