"""Choice of the best among several series of one head in one study."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from famseg.preparation._types import Refused, Source
from famseg.preparation.dicom._header import Header

_SHARED = 0.5  # of the smaller series along each axis; with more overlap, both show the same part
_HEAD_MM = 150.0  # beyond this, a larger extent is no advantage
_SAME_GAP_MM = 0.1
_SHARP_SIEMENS = 50  # kernels are numbered by sharpness, from 10 to 90
_SHARP = re.compile(
    r"(BONE|EDGE|LUNG|ULTRA|DETAIL).*"  # GE
    r"|FC(3\d|5\d|8\d)"  # Canon, Toshiba
    r"|Y?[DE]|YC|L"  # Philips
)
_SIEMENS = re.compile(r"[BDHJTUQ][A-Z]?(\d\d)[A-Z0-9]*")


class Series(NamedTuple):
    """A usable series.

    Args:
        source: The subject that would be prepared.
        headers: The headers of its files.
    """

    source: Source
    headers: Sequence[Header]


class _Extent(NamedTuple):
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    length_mm: float
    gap_mm: float


def best_series(found: Sequence[Series]) -> tuple[list[Source], list[Refused]]:
    """Return the best series of each head in each study, and the others with the reason.

    Series of one study and frame of reference whose bounding boxes overlap by more than half of the
    smaller box along each axis show the same head: they are reconstructions of one acquisition, or
    successive acquisitions. The best series is determined by the first of these criteria that
    differs:

    1. is original, not derived from others;
    2. reaches 150 mm along its slices, or as far as possible (to a tenth of that);
    3. is without a contrast agent, which makes vessels look like bone;
    4. has its slices closest (to 0.1 mm);
    5. has a smooth kernel: sharp ones raise noise above the threshold of bone;
    6. was acquired first; then the smaller number of the series.

    Args:
        found: All usable series.

    Returns:
        The selected series, in their order, and the series that are left out.
    """
    studies: dict[tuple[str, str], list[Series]] = defaultdict(list)
    others: list[Refused] = []
    for series in found:
        first = series.headers[0]
        if first.study:
            studies[first.study, first.frame_of_reference].append(series)
    for members in studies.values():
        rest = sorted(members, key=_rank)
        while rest:
            best, *rest = rest
            same = [series for series in rest if _same_part(best, series)]
            rest = [series for series in rest if series not in same]
            others += [_left_out(series, best) for series in same]
    gone = {other.subject for other in others}
    return [s.source for s in found if s.source.subject not in gone], others


def is_sharp(kernel: str) -> bool:
    """Return whether a kernel is meant for bone or lung, by its vendor-specific name.

    Example:
        >>> is_sharp("H60S"), is_sharp("H30S"), is_sharp("BONEPLUS"), is_sharp("FC21")
        (True, False, True, False)
    """
    siemens = _SIEMENS.fullmatch(kernel)
    if siemens is not None:
        return int(siemens[1]) >= _SHARP_SIEMENS
    return _SHARP.fullmatch(kernel) is not None


def _rank(series: Series) -> tuple[bool, float, bool, float, bool, int, int, str]:
    first, extent = series.headers[0], _extent(series.headers)
    return (
        "DERIVED" in first.image_type,
        -round(min(extent.length_mm / _HEAD_MM, 1), 1),
        first.contrast,
        round(extent.gap_mm / _SAME_GAP_MM),
        is_sharp(first.kernel),
        first.acquisition,
        first.number,
        series.source.subject,
    )


def _extent(headers: Sequence[Header]) -> _Extent:
    """Return the bounding box of all voxel centers, and the range and spacing of the slices."""
    corners, heights = [], []
    slices = [part for header in headers for part in header.slices]
    normal = np.cross(slices[0].row, slices[0].column)
    for part in slices:
        edges = [
            np.array(way) * (count - 1) * spacing
            for way, count, spacing in zip(
                (part.row, part.column), part.size, part.spacing_mm, strict=True
            )
        ]
        corners += [np.array(part.position_mm) + i * edges[0] + j * edges[1] for i, j in _CORNERS]
        heights.append(float(np.dot(part.position_mm, normal)))
    ordered = np.sort(heights)
    gaps = np.diff(ordered)
    return _Extent(
        np.min(corners, axis=0),
        np.max(corners, axis=0),
        float(ordered[-1] - ordered[0]),
        float(np.median(gaps)) if len(gaps) else 0.0,
    )


_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def _same_part(one: Series, other: Series) -> bool:
    a, b = _extent(one.headers), _extent(other.headers)
    shared = np.minimum(a.high, b.high) - np.maximum(a.low, b.low)
    return bool((shared > _SHARED * np.minimum(a.high - a.low, b.high - b.low)).all())


def _left_out(series: Series, best: Series) -> Refused:
    own, other = series.headers[0], best.headers[0]
    gap, best_gap = _extent(series.headers).gap_mm, _extent(best.headers).gap_mm
    differs = [
        ("derived images", "DERIVED" in own.image_type and "DERIVED" not in other.image_type),
        ("with contrast agent", own.contrast and not other.contrast),
        (f"slices {gap:.3g} mm apart, not {best_gap:.3g}", abs(gap - best_gap) >= _SAME_GAP_MM),
        ("another kernel", own.kernel != other.kernel),
        (f"acquisition {own.acquisition}", own.acquisition != other.acquisition),
    ]
    what = ", ".join(text for text, holds in differs if holds) or "no difference in the headers"
    subject = best.source.subject
    reason = (
        f"another series of the same head and study as {subject}, which is used instead ({what}); "
        "--every-series uses all"
    )
    return Refused(series.source.subject, series.source.origin, reason, left_out=True)
