"""Check that the values of a series are CT numbers, as stated in its headers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from famseg.preparation._types import Kind
from famseg.preparation.sources import AIR_HU

_AIR_BELOW_HU = -500
_SOME = 1e-3  # share of the voxels that are air in any scan of a head in HU
_SOFT_ABOVE_AIR = 1040  # HU
_NEAR_HU = 60  # tolerance for differences between scanners
_PEAK_HU = 24  # on either side of a peak; wider, soft tissue and bone would be taken for the pair
_LEAST_SHARE = 0.01  # of air, and of soft tissue
_USUAL = (1000, 1024)
_STEP_HU = 8
_HIGHEST = 4096
_SAMPLED = 500_000


def checked_scale(
    array: NDArray[np.int16], *, rescaled: bool
) -> tuple[NDArray[np.int16], Kind, tuple[str, ...]]:
    """Return the values of a series, in HU if possible, with their kind and notes.

    A scan of a head shows air. If hardly any value lies below -500 HU, the headers are wrong. Some
    cone-beam scanners store HU + 1024 as unsigned values and state an intercept of 0. Two peaks
    that are as far apart as air and soft tissue then reveal the offset. Without such peaks the
    values have no unit.

    Args:
        array: Values rescaled according to the headers, padding as -1024; changed in place.
        rescaled: Whether the headers say how to get HU.
    """
    sample = array.ravel(order="K")[:: max(1, array.size // _SAMPLED)]
    air = sample < _AIR_BELOW_HU
    padding = sample == AIR_HU
    if float(np.mean(air & ~padding)) >= _SOME:
        return array, "hounsfield", ()
    off = offset_of(sample[~padding])
    if off is not None and off >= -_AIR_BELOW_HU:
        body = array != AIR_HU
        np.subtract(array, np.int16(off), out=array, where=body)
        why = "The headers promise CT numbers" if rescaled else "The headers name no CT numbers"
        return (
            array,
            "hounsfield",
            (
                f"{why}, but there is no air below {_AIR_BELOW_HU} HU: values are {off} too high, "
                f"as some cone-beam scanners store them; {off} was subtracted.",
            ),
        )
    if float(np.mean(air)) >= _SOME:
        return array, "hounsfield", ()
    if not rescaled:
        note = "The headers do not say how to compute CT numbers, and there is no air."
    else:
        note = (
            f"The headers promise CT numbers, but there is no air below {_AIR_BELOW_HU} HU: values "
            "are taken as intensities without a unit."
        )
    return array, "intensity", (note,)


def offset_of(sample: NDArray[np.int16]) -> int | None:
    """Return the offset of values from CT numbers; None if they do not look like CT numbers.

    Example:
        >>> offset_of(np.repeat(np.int16([24, 1064, 2024]), [600, 300, 50]))
        1024
    """
    values = np.arange(-_HIGHEST, 2 * _HIGHEST, _STEP_HU)
    counts, _ = np.histogram(sample, bins=np.append(values, values[-1] + _STEP_HU))
    if counts.sum() == 0:
        return None
    below = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    reach = _PEAK_HU // _STEP_HU

    def near(at: NDArray[np.intp]) -> NDArray[np.float64]:
        return np.asarray(below[at + reach] - below[at - reach])

    apart = _SOFT_ABOVE_AIR // _STEP_HU
    air = np.arange(reach, len(values) - apart - reach)
    share_air, share_soft = near(air), near(air + apart)
    good = (share_air >= _LEAST_SHARE) & (share_soft >= _LEAST_SHARE)
    if not good.any():
        return None
    both = np.where(good, share_air + share_soft, 0)
    best = np.flatnonzero(both > both.max() - 0.01)  # the center of a plateau
    found = int(values[air[best[len(best) // 2]]] + 1000)
    usual = min(_USUAL, key=lambda offset: abs(offset - found))
    return usual if abs(usual - found) <= _NEAR_HU else found
