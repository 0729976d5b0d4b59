"""The confidence of a predicted implant: calibrated agreement of several predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Probability = NDArray[np.float32]

THRESHOLDS = tuple(round(0.1 + 0.025 * step, 3) for step in range(35))
"""Thresholds of the probability, 0.1 to 0.95, that a calibration compares."""


@dataclass(frozen=True)
class Curve:
    """An increasing map from agreement to implant DSC, fitted to validation cases.

    Args:
        agreement: Agreements in increasing order; empty without a calibration.
        dsc: The DSC of each, in increasing order.
        n: Number of validation cases that the map was fitted to.
        spearman: Rank correlation of agreement and DSC over these cases.
    """

    agreement: tuple[float, ...] = ()
    dsc: tuple[float, ...] = ()
    n: int = 0
    spearman: float | None = None

    def __call__(self, agreement: float) -> float:
        """Return the expected DSC, or the agreement itself without a calibration."""
        if not self.agreement:
            return float(agreement)
        return float(np.interp(agreement, self.agreement, self.dsc))

    def record(self) -> dict[str, Any]:
        """Return the curve as JSON types."""
        return {
            "agreement": list(self.agreement),
            "dsc": list(self.dsc),
            "n": self.n,
            "spearman": self.spearman,
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Curve:
        """Return the curve from a result of `record`.

        Raises:
            ValueError: If it is not such a record.
        """
        try:
            x = tuple(float(value) for value in record["agreement"])
            y = tuple(float(value) for value in record["dsc"])
            spearman = None if record["spearman"] is None else float(record["spearman"])
            curve = cls(x, y, int(record["n"]), spearman)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("it has no confidence curve") from error
        rising = all(np.all(np.diff(values) >= 0) for values in (x, y))
        if len(x) != len(y) or not np.isfinite([*x, *y]).all() or not rising:
            raise ValueError("its confidence curve does not rise")
        return curve


def fit_curve(agreement: Sequence[float], dsc: Sequence[float]) -> Curve:
    """Fit the increasing map from agreement to DSC that is closest to the cases (least squares).

    Adjacent decreasing values are pooled until the map is increasing (isotonic regression by the
    pool-adjacent-violators algorithm). The map is linear between the means of the pools and
    constant beyond them.

    Args:
        agreement: Agreement of each validation case.
        dsc: Its unmasked implant DSC.

    Raises:
        ValueError: If the lengths differ or there is no case.

    Example:
        >>> curve = fit_curve([0.2, 0.4, 0.6, 0.8], [0.1, 0.5, 0.3, 0.9])
        >>> curve(0.5), curve(0.9), curve.n
        (0.4, 0.9, 4)
    """
    if len(agreement) != len(dsc) or not len(dsc):
        raise ValueError(f"{len(agreement)} agreements for {len(dsc)} cases: give one per case.")
    levels, places = np.unique(np.asarray(agreement, dtype=np.float64), return_inverse=True)
    counts = np.bincount(places)
    sums = np.bincount(places, weights=np.asarray(dsc, dtype=np.float64))
    pools: list[tuple[float, float, int]] = []  # sums of agreement and DSC, and their number
    for level, total, count in zip(levels, sums, counts, strict=True):
        pools.append((float(level * count), float(total), int(count)))
        while len(pools) > 1 and pools[-2][1] / pools[-2][2] >= pools[-1][1] / pools[-1][2]:
            last, before = pools.pop(), pools.pop()
            pools.append((last[0] + before[0], last[1] + before[1], last[2] + before[2]))
    from scipy.stats import spearmanr  # slow to import, and not needed for a reconstruction

    varied = len(levels) > 1 and len(set(dsc)) > 1
    spearman = float(spearmanr(agreement, dsc).statistic) if varied else None
    return Curve(
        tuple(round(x / k, 6) for x, _, k in pools),
        tuple(round(y / k, 6) for _, y, k in pools),
        len(dsc),
        None if spearman is None else round(spearman, 4),
    )


def dice_by_threshold(
    probability: Probability, skull: NDArray[np.bool_], implant: NDArray[np.bool_]
) -> Array:
    """Return the unmasked implant DSC at each of ``THRESHOLDS``.

    Args:
        probability: Probability of the implant, shape ``(X, Y, Z)``.
        skull: The defective skull, whose voxels are never implant.
        implant: The reference implant.

    Example:
        >>> implant = np.array([True, True, False])
        >>> probability = np.array([0.9, 0.3, 0.25], dtype=np.float32)
        >>> found = dice_by_threshold(probability, np.zeros(3, dtype=bool), implant)
        >>> [float(found[THRESHOLDS.index(level)].round(2)) for level in (0.2, 0.275, 0.5)]
        [0.8, 1.0, 0.67]
    """
    levels = np.array(THRESHOLDS, dtype=np.float32)
    free, true = ~skull, implant[~skull]
    # One histogram of the levels, instead of thresholding the volume at each level.
    above = np.searchsorted(levels, probability[free], side="left")
    found, both = (
        np.bincount(places, minlength=len(levels) + 1)[::-1].cumsum()[::-1][1:]
        for places in (above, above[true])
    )
    return np.asarray(2 * both / np.maximum(found + np.count_nonzero(implant), 1))


def agreement_of(
    predictions: Sequence[Probability], skull: NDArray[np.bool_], threshold: float
) -> tuple[Probability, Probability, float]:
    """Return the mean prediction, the map of agreement, and the agreement as one number.

    The number is the mean of two values: the mean Dice coefficient between each thresholded
    prediction and the mean one, and the expected Dice coefficient of the mean prediction if its
    probabilities are correct, ``2 sum_M p / (|M| + sum p)``. The first measures the variation of
    predictions for the same head, the second the uncertainty of each voxel.

    Args:
        predictions: Probabilities of the implant, each of shape ``(X, Y, Z)``.
        skull: The defective skull, whose voxels are never implant.
        threshold: From which probability on a voxel belongs to the implant.

    Returns:
        Mean probability; the share of the predictions that agree with the mean one at each voxel,
        from 0 to 1; the agreement from 0 to 1, which is 0 where the mean prediction is empty.
    """
    mean: Probability = np.asarray(np.mean(predictions, axis=0, dtype=np.float32))
    mask = (mean > threshold) & ~skull
    votes = [(prediction > threshold) & ~skull for prediction in predictions]
    agree: Probability = np.asarray(
        np.mean([vote == mask for vote in votes], axis=0, dtype=np.float32)
    )
    size = np.count_nonzero(mask)
    if not size:
        return mean, agree, 0.0
    dice = [2 * np.count_nonzero(v & mask) / (np.count_nonzero(v) + size) for v in votes]
    expected = 2 * float(mean[mask].sum()) / (size + float(mean[~skull].sum()))
    return mean, agree, float((np.mean(dice) + expected) / 2)
