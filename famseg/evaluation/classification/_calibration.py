"""Calibration: agreement of the confidence of predictions with their accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15


@dataclass(frozen=True)
class Bin:
    """The samples with a confidence in ``(low, high]``.

    Attributes:
        low: Lower edge, not part of the bin, except that the first bin includes confidence 0.
        high: Upper edge.
        n: Number of samples.
        accuracy: Share of correct predictions; None for an empty bin.
        confidence: Mean confidence; None for an empty bin.
    """

    low: float
    high: float
    n: int
    accuracy: float | None
    confidence: float | None


@dataclass(frozen=True)
class Calibration:
    """The difference between confidence and accuracy.

    Attributes:
        ece: Expected calibration error, from 0 to 1.
        bins: All bins in the order of their confidence, including empty ones.
    """

    ece: float
    bins: tuple[Bin, ...]


def calibration(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, *, bins: int = BINS
) -> Calibration:
    r"""Return the expected calibration error (Guo et al. 2017) and the bins it comes from.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \lvert \mathrm{acc}_b - \mathrm{conf}_b \rvert

    over bins of equal width, ``(0, 1/15]`` to ``(14/15, 1]`` by default. The confidence of a
    prediction is the largest of its probabilities. The value depends on the bins, and with few
    samples
    it is biased upwards: compare values of the same bins and about the same number of samples.

    Args:
        confidence: From 0 to 1, shape ``(n,)``, n at least 1.
        correct: Which predictions are correct, shape ``(n,)``.
        bins: Number of bins.

    Raises:
        ValueError: If the shapes do not fit or a confidence is not from 0 to 1.

    Example:
        >>> found = calibration([0.9, 0.9, 0.6], [True, False, True], bins=2)
        >>> round(found.ece, 3)  # all in (0.5, 1]: mean confidence 0.8, accuracy 2/3
        0.133
        >>> [(b.n, b.accuracy) for b in found.bins]
        [(0, None), (3, 0.6666666666666666)]
    """
    sure = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or not sure.size or right.shape != sure.shape:
        raise ValueError(
            f"confidence and correct must have shape (n,), one entry per sample, got {sure.shape} "
            f"and {right.shape}."
        )
    if not ((sure >= 0) & (sure <= 1)).all():  # False for NaN
        raise ValueError(
            f"confidence must be from 0 to 1, found {sure.min():.3g} to {sure.max():.3g}. Give "
            "the largest probability of each sample, not logits."
        )
    edges = np.linspace(0, 1, bins + 1)
    number = np.searchsorted(edges[1:], sure, side="left")
    counts = np.bincount(number, minlength=bins)
    accuracy = _means(number, right, counts)
    mean_confidence = _means(number, sure, counts)
    found = tuple(
        Bin(float(low), float(high), int(n), float(a) if n else None, float(c) if n else None)
        for low, high, n, a, c in zip(
            edges[:-1], edges[1:], counts, accuracy, mean_confidence, strict=True
        )
    )
    ece = float((counts / sure.size * np.abs(accuracy - mean_confidence)).sum())
    return Calibration(ece, found)


def _means(
    number: npt.NDArray[np.intp], values: npt.NDArray[np.float64], counts: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    """Return the mean of each bin, 0 for an empty one."""
    sums = np.bincount(number, weights=values, minlength=len(counts))
    means: npt.NDArray[np.float64] = sums / np.maximum(counts, 1)
    return means
