"""How far one surface lies from another: distances with the weight of each, without the places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Squares of distances that are no whole numbers are held in single precision: a distance that
# equals the tolerance must count as within it.
_SLACK = 1 + 1e-5
# Rounding of a sum of weights must not skip to the next distance.
_ROUNDING = 1 - 1e-12
# So many points are sorted in one go or a quarter of them, whichever is more; and so many distances
# collected before equal ones are joined.
_SORT = 2**15
_MERGE = 2**20


@dataclass(frozen=True, eq=False)
class Profile:
    """Distances from the points of one surface to another surface.

    Surfaces of millions of points have few distinct distances between them, so that these with
    their weights are all that statistics need.

    Args:
        values: The distinct distances, rising, shape ``(N,)``, at least one.
        weights: Shape ``(N,)``, all positive: how many points have that distance, or how much area.

    Example:
        >>> profile = Profile(np.array([0.0, 1.0, 3.0]), np.array([6.0, 3.0, 1.0]))
        >>> profile.max(), profile.mean(), profile.share_within(1.0)
        (3.0, 0.6, 0.9)
        >>> profile.percentile(90), profile.percentile(95)
        (1.0, 3.0)
        >>> round(profile.percentile_by_rank(95), 3)  # as np.percentile of all ten
        2.1
    """

    values: Floats
    weights: Floats

    def max(self) -> float:
        """Return the largest distance."""
        return float(self.values[-1])

    def mean(self) -> float:
        """Return the mean distance by weight."""
        return float(self.values @ self.weights / self.weights.sum())

    def share_within(self, tolerance: float) -> float:
        """Return the share of the weight whose distance the tolerance is not exceeded by."""
        near = self.values <= tolerance * _SLACK
        return float(self.weights[near].sum() / self.weights.sum())

    def percentile(self, percent: float) -> float:
        """Return the smallest distance that ``percent`` of the weight does not exceed."""
        reached = np.cumsum(self.weights)
        place = np.searchsorted(reached, reached[-1] * percent / 100 * _ROUNDING)
        return float(self.values[place])

    def percentile_by_rank(self, percent: float) -> float:
        """Return what ``np.percentile`` makes of the single distances; weights must be counts.

        The value at rank ``(n - 1) percent / 100``, counted from 0, on the line between the
        neighbouring ranks.
        """
        reached = np.cumsum(self.weights)
        rank = (reached[-1] - 1) * percent / 100
        below, above = np.searchsorted(reached, [np.floor(rank), np.ceil(rank)], side="right")
        low, high = float(self.values[below]), float(self.values[above])
        return low + (high - low) * float(rank - np.floor(rank))

    def pooled(self, other: Profile) -> Profile:
        """Return the profile of the points of both."""
        values = np.concatenate([self.values, other.values])
        return Profile(*_merge(values, np.concatenate([self.weights, other.weights])))

    def scaled(self, length: float, weight: float = 1.0) -> Profile:
        """Return the profile in another unit: distances times ``length``, weights times ``weight``.

        Example:
            >>> Profile(np.array([2.0]), np.array([5.0])).scaled(0.5).values
            array([1.])
        """
        return Profile(self.values * length, self.weights * weight)


class Tally:
    """Collects squared distances, part by part, and makes a profile of them.

    Args:
        weights: Weight of a point for each label, shape ``(256,)``.
    """

    def __init__(self, weights: Floats) -> None:
        self._weights = weights
        self._values: list[Floats] = []
        self._sums: list[Floats] = []
        self._room = _MERGE

    def add(self, squares: npt.NDArray[Any], labels: npt.NDArray[np.uint8]) -> None:
        """Count points in.

        Args:
            squares: Squared distances of some points, at least one.
            labels: Their labels.
        """
        count = max(_SORT, -(-len(squares) // 4))
        for start in range(0, len(squares), count):
            self._add(squares[start : start + count], labels[start : start + count])
        if sum(len(values) for values in self._values) > self._room:
            values, sums = self._merged()
            self._values, self._sums = [values], [sums]
            self._room = max(_MERGE, 2 * len(values))

    def _add(self, squares: npt.NDArray[Any], labels: npt.NDArray[np.uint8]) -> None:
        real = squares.dtype == np.float32
        # The bits of positive numbers in single precision are in the order of the numbers.
        keys = (squares.view(np.uint32) if real else squares).astype(np.uint64)
        keys <<= np.uint64(8)
        keys |= labels
        keys.sort()
        bits = (keys >> np.uint64(8)).astype(np.uint32)
        starts = np.flatnonzero(np.concatenate([[True], bits[1:] != bits[:-1]]))
        distinct = bits[starts].view(np.float32) if real else bits[starts]
        self._values.append(distinct.astype(np.float64))
        weights = self._weights[(keys & np.uint64(255)).astype(np.intp)]
        self._sums.append(np.add.reduceat(weights, starts))

    def profile(self) -> Profile:
        """Return what was counted, with distances for their squares."""
        values, weights = self._merged()
        return Profile(np.sqrt(values), weights)

    def _merged(self) -> tuple[Floats, Floats]:
        return _merge(np.concatenate(self._values), np.concatenate(self._sums))


def _merge(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the distinct values, rising, and the sums of their weights."""
    distinct, place = np.unique(values, return_inverse=True)
    sums: Floats = np.bincount(place, weights, len(distinct)).astype(np.float64)
    return distinct, sums
