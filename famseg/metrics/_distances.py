"""Exact Euclidean distances on a grid, searched only as far as needed.

The square of a distance is a sum over the axes, so that the smallest can be found axis by axis:
along the first axis, count the steps to the nearest point of interest; along each other axis, take
the minimum of ``value + (d spacing)^2`` over the neighbors d steps away on either side (Saito and
Toriwaki, Pattern Recognition 27, 1994). If no distance exceeds a reach of r steps, r neighbors on
each side are enough, and with cubic voxels the squares are small whole numbers that fit into one or
two bytes, of which a processor handles 32 or 16 at a time. The surfaces of a prediction and its
reference are mostly near each other: the reach starts small and grows where it is too short. If
even the longest is too short, Maurer's transform (IEEE PAMI 25, 2003) of the whole grid is used,
whose time does not depend on distances.

Everything except that transform works on slabs of a few planes, which fit into the processor's
cache and need little memory: one byte per voxel. Time and memory are linear in the grid, whatever
its content. A nearest-neighbor tree is as fast on masks that are close, but takes a hundred times
longer on a prediction that is foreground everywhere or noise, such as that of an untrained network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 -- the name its users know it by

from famseg.metrics._areas import Spacing

Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
# Squared distances: bytes, 16-bit words or single precision, whichever is large enough.
Squares = npt.NDArray[Any]
Places = npt.NDArray[np.intp]

UNIT: Spacing = (1.0, 1.0, 1.0)
# A number of steps that means "this many or more".
_MANY = 255
_SLAB = 2**18  # voxels; a slab and its intermediate arrays fit into a processor's cache
_PART = 2**14  # places handled at once: their indices need more memory than anything else
# Reaches in steps, each with a type that can store its square and that of one step more.
_WHOLE: list[tuple[int, type[Any]]] = [
    (5, np.uint8),
    (10, np.uint8),
    (20, np.uint16),
    (40, np.uint16),
    (80, np.uint16),
]
_REAL: list[tuple[int, type[Any]]] = [(steps, np.float32) for steps, _ in _WHOLE]


class _Reach(NamedTuple):
    """How far to search in one pass.

    Attributes:
        kind: The type of the squares.
        costs: For each axis the squared lengths of 1, 2, ... steps, up to the reach.
        certain: A square below this value is the smallest: every point beyond the reach is farther.
        far: The value of a square that is too large; the largest cost can be added to it without an
            overflow.
    """

    kind: type[Any]
    costs: tuple[list[float], ...]
    certain: float
    far: float


def _reach(spacing: Spacing, steps: int, kind: type[Any]) -> _Reach:
    """Return a reach of ``steps`` times the smallest spacing."""
    length = steps * min(spacing)
    costs = tuple(
        [(count * along) ** 2 for count in range(1, int(length / along) + 1)] for along in spacing
    )
    certain = min(
        ((len(column) + 1) * along) ** 2 for column, along in zip(costs, spacing, strict=True)
    )
    largest = max(max(column, default=0.0) for column in costs)
    room = {np.uint8: 255.0, np.uint16: 65535.0}.get(kind, 5 * largest)
    return _Reach(kind, costs, certain, room - largest)


def slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield the slabs of a grid along its first axis, four or more, to be processed separately."""
    planes = max(1, min(_SLAB // (shape[1] * shape[2]), shape[0] // 4))
    for start in range(0, shape[0], planes):
        yield slice(start, min(start + planes, shape[0]))


def fill_gaps(gaps: Bytes) -> None:
    """Count the steps to the nearest 0 along the first axis, in place; other values must be 255.

    255 means that many steps or more, or no 0 on the line. A forward and a backward pass.
    """
    step = np.empty_like(gaps[0])
    for planes in (gaps, gaps[::-1]):
        for before, plane in pairwise(planes):
            np.add(before, (before != _MANY).view(np.uint8), out=step)
            np.minimum(plane, step, out=plane)


class Field:
    """Squared distances to the nearest of some points, computed only where requested.

    Args:
        gaps: Steps from each place of the grid to the nearest point along the first axis, as
            `fill_gaps` leaves them; at least one point.
        spacing: Distances between neighboring places along each axis.

    Attributes:
        gaps: The argument; None once a map of the whole grid has replaced it.
    """

    def __init__(self, gaps: Bytes, spacing: Spacing) -> None:
        self.gaps: Bytes | None = gaps
        self._spacing = spacing
        plan = _WHOLE if spacing == UNIT else _REAL
        self._reaches = [_reach(spacing, steps, kind) for steps, kind in plan]
        self._current = 0
        self._map: Map | None = None

    def squares(self, slab: slice, places: Places) -> Squares:
        """Return the squared distances at some places of a slab.

        Args:
            slab: Planes along the first axis.
            places: At least one index into the slab, its axes flattened.

        Returns:
            One square for each place, exact for unit spacing, otherwise with a relative error below
            1e-6.
        """
        while self.gaps is not None:
            reach = self._reaches[self._current]
            found = _near(self.gaps[slab], places, reach)
            farthest = float(found.max())
            if farthest < reach.certain:
                # Neighboring slabs are similar: a reach that is enough here is tried first there.
                if self._current > 0 and farthest < self._reaches[self._current - 1].certain:
                    self._current -= 1
                return found
            self._current += 1
            if self._current == len(self._reaches):
                image, self.gaps = points_image(self.gaps == 0, self._spacing), None
                self._map = Map(image)
        assert self._map is not None  # noqa: S101 - the map has replaced the gaps
        return self._map.squares(slab, places)


def points_image(points: Mask, spacing: Spacing) -> sitk.Image:
    """Return a mask as an image of its own memory."""
    image = sitk.GetImageFromArray(points.view(np.uint8))
    image.SetSpacing(spacing[::-1])  # the last axis of the array is the first of the image
    return image


class Map:
    """Squared distances from every place of a grid to the nearest of some points.

    Args:
        points: At least one, by `points_image`.
    """

    _signed: npt.NDArray[np.float32]

    def __init__(self, points: sitk.Image) -> None:
        if sitk.GetArrayViewFromImage(points).all():  # then the transform is undefined
            self._signed = np.zeros(points.GetSize()[::-1], dtype=np.float32)
            return
        transform = sitk.SignedMaurerDistanceMapImageFilter()
        # Cases are already distributed to processes; additional threads nearly double the time.
        transform.SetNumberOfThreads(1)
        transform.InsideIsPositiveOff()
        transform.SquaredDistanceOn()
        transform.UseImageSpacingOn()
        # The array is a view of the image's memory, so the image must be kept; a copy would need
        # memory in addition to the eight bytes per voxel of the transform.
        self._image = transform.Execute(points)
        self._signed = sitk.GetArrayViewFromImage(self._image)

    def squares(self, slab: slice, places: Places | Mask) -> npt.NDArray[np.float32]:
        """Return the squares at some places of a slab, given by index or mask of its flat array."""
        found = self._signed[slab].reshape(-1)[places]
        return np.maximum(found, 0.0, out=found)  # the map is negative at the points themselves


def _near(gaps: Bytes, places: Places, reach: _Reach) -> Squares:
    """Return the smallest squares at some places among the points within reach.

    A square below ``reach.certain`` is exact; others may be too large.

    Args:
        gaps: The steps along the first axis, for some planes.
        places: Indices into the planes, their axes flattened.
        reach: How far to search.
    """
    planes, rows, length = gaps.shape
    # Each row gets a margin as long as the reach, so that steps along the flattened array never
    # lead from one row into another; a step before the first row wraps to the margin at the end.
    margin = len(reach.costs[2])
    squares = np.full((planes, rows, length + margin), reach.far, dtype=reach.kind)
    squares[..., :length] = _squared(gaps, reach)
    found = _spread(squares.reshape(planes, -1), length + margin, reach.costs[1])
    line = found.reshape(-1)
    least = np.empty(len(places), dtype=line.dtype)
    for start in range(0, len(places), _PART):
        part = places[start : start + _PART]
        least[start : start + _PART] = _gathered(
            line, part + part // length * margin, reach.costs[2]
        )
    return least


def _squared(gaps: Bytes, reach: _Reach) -> Squares:
    """Return the squared distances along the first axis; ``far`` beyond the reach."""
    limit = len(reach.costs[0])
    squares: Squares = gaps.astype(reach.kind)
    squares *= squares
    if limit:
        squares *= reach.kind(reach.costs[0][0])
    # Multiplying and adding is many times faster than writing through a mask.
    squares *= (gaps <= limit).astype(reach.kind)
    squares += (gaps > limit).astype(reach.kind) * reach.kind(reach.far)
    return squares


def _spread(lines: Squares, stride: int, costs: Sequence[float]) -> Squares:
    """Return the minimum of each value and of its neighbors on the line plus their costs.

    Args:
        lines: Shape ``(lines, places)``.
        stride: The number of places in one step.
        costs: The costs of one step, two steps and so on.
    """
    found = lines.copy()
    raised = np.empty_like(lines)
    for count, cost in enumerate(costs, 1):
        shift = count * stride
        if shift >= lines.shape[1]:
            break
        np.add(lines, lines.dtype.type(cost), out=raised)
        np.minimum(found[:, shift:], raised[:, :-shift], out=found[:, shift:])
        np.minimum(found[:, :-shift], raised[:, shift:], out=found[:, :-shift])
    return found


def _gathered(line: Squares, places: Places, costs: Sequence[float]) -> Squares:
    """Return the values of `_spread` at some places of one line.

    A neighbor whose cost alone is at least the current value cannot lower it, and costs rise with
    the distance: such places need no further search, so that fewer remain with each step.
    """
    found: Squares = line[places]
    active = np.arange(len(places))
    for count, cost in enumerate(costs, 1):
        active = active[found[active] > cost]
        if not len(active):
            break
        here = places[active]
        near = np.minimum(line[here - count], line[here + count])
        near += line.dtype.type(cost)
        found[active] = np.minimum(found[active], near)
    return found
