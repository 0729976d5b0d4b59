"""Distances from one surface to another: distinct values with weights, without positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Squared distances that are not whole numbers are stored in single precision. A distance equal to
# the tolerance must count as within it, hence some slack.
_SLACK = 1 + 1e-5
# A rounding error in the sum of weights must not select the next larger distance.
_ROUNDING = 1 - 1e-12
# Points sorted in one go (or a quarter of all, if that is more), and distinct distances collected
# before equal ones are merged: sorting small parts needs little memory.
_SORT = 2**15
_MERGE = 2**20


@dataclass(frozen=True, eq=False)
class Profile:
    """Distances from the points of one surface to another surface.

    Surfaces of millions of points have few distinct distances, so that statistics need only the
    distinct ``values`` and their ``weights``. Each method takes time linear in their number.

    Args:
        values: The distinct distances in ascending order, shape ``(N,)``, at least one.
        weights: Shape ``(N,)``, all positive: the number of points at that distance, or their area.

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
        """Return the weighted mean distance, ``sum(w d) / sum(w)``."""
        return float(self.values @ self.weights / self.weights.sum())

    def share_within(self, tolerance: float) -> float:
        """Return the share of the weight with a distance of at most the tolerance."""
        near = self.values <= tolerance * _SLACK
        return float(self.weights[near].sum() / self.weights.sum())

    def percentile(self, percent: float) -> float:
        """Return the smallest distance within which ``percent`` of the weight is found."""
        reached = np.cumsum(self.weights)
        place = np.searchsorted(reached, reached[-1] * percent / 100 * _ROUNDING)
        return float(self.values[place])

    def percentile_by_rank(self, percent: float) -> float:
        """Return ``np.percentile`` of the single distances; weights must be counts.

        The value at rank ``(n - 1) percent / 100``, counted from 0, interpolated linearly between
        the neighboring ranks.
        """
        reached = np.cumsum(self.weights)
        rank = (reached[-1] - 1) * percent / 100
        below, above = np.searchsorted(reached, [np.floor(rank), np.ceil(rank)], side="right")
        low, high = float(self.values[below]), float(self.values[above])
        return low + (high - low) * float(rank - np.floor(rank))

    def pooled(self, other: Profile) -> Profile:
        """Return the profile of the points of both surfaces."""
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
        weights: The weight of a point for each label, shape ``(256,)``.
    """

    def __init__(self, weights: Floats) -> None:
        self._weights = weights
        self._values: list[Floats] = []
        self._sums: list[Floats] = []
        self._room = _MERGE

    def add(self, squares: npt.NDArray[Any], labels: npt.NDArray[np.uint8]) -> None:
        """Add points.

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
        # A distance and its label are sorted as one integer, the distance in the high bits: one
        # sort of integers instead of a sort by two keys. The bits of positive numbers in single
        # precision have the order of the numbers.
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
        """Return the profile of the points added, with distances in place of their squares."""
        values, weights = self._merged()
        return Profile(np.sqrt(values), weights)

    def _merged(self) -> tuple[Floats, Floats]:
        return _merge(np.concatenate(self._values), np.concatenate(self._sums))


def _merge(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the distinct values in ascending order and the sums of their weights."""
    distinct, place = np.unique(values, return_inverse=True)
    sums: Floats = np.bincount(place, weights, len(distinct)).astype(np.float64)
    return distinct, sums
