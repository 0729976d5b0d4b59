"""Implants without a network: from the mean skull, the most similar skull or the other side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from famseg.messages import InputError
from famseg.reconstruction._mirror import mirror
from famseg.reconstruction._plate import plate

if TYPE_CHECKING:
    from famseg.evaluation import Baseline  # imports matplotlib

Mask = npt.NDArray[np.bool_]
Affine = npt.NDArray[np.float64]
Baselines: TypeAlias = "Mapping[str, Baseline]"


def standard_baselines(skulls: Sequence[npt.ArrayLike], mean_skull: npt.ArrayLike) -> Baselines:
    """Return the baselines that are shown with every evaluation of implants.

    Args:
        skulls: Masks of the training skulls, on the grid of the cases; at least one.
        mean_skull: Their mean as a mask.

    Returns:
        ``mean_skull``, ``nearest_skull``, ``mirror`` and ``thin_plate``, by name.

    Raises:
        ValueError: If there is no skull.
    """
    return {
        "mean_skull": mean_baseline(mean_skull),
        "nearest_skull": nearest_baseline(skulls),
        "mirror": mirror_baseline(),
        "thin_plate": thin_plate,
    }


def thin_plate(skull: Mask, outline: Mask, affine: Affine) -> Mask:
    """Return a smoothed thin plate through the walls around the outline, as `plate` does.

    Without a skull, or without bone around the outline, there is no implant, which is a failed
    case.
    """
    try:
        return plate(skull, affine, outline)
    except InputError:
        return np.zeros_like(skull)


def mean_baseline(mean_skull: npt.ArrayLike) -> Baseline:
    """Return the baseline that gives all patients the bone of the mean skull.

    Args:
        mean_skull: A mask on the grid of the cases.
    """
    mean: Mask = np.asarray(mean_skull) > 0
    return lambda skull, outline, affine: mean


def nearest_baseline(skulls: Sequence[npt.ArrayLike]) -> Baseline:
    """Return the baseline that takes the implant from the most similar of the training skulls.

    That is the one with the highest Dice coefficient with the defective skull, outside the outline.
    Masks are kept as bits: a hundred skulls of 64^3 take 3 MB.

    Args:
        skulls: Masks of complete skulls on the grid of the cases; at least one.

    Raises:
        ValueError: If there is none.
    """
    masks = [np.asarray(skull) > 0 for skull in skulls]
    if not masks:
        raise ValueError("the nearest skull needs at least one skull: give the training split.")
    shape, size = masks[0].shape, masks[0].size
    packed = np.stack([np.packbits(mask) for mask in masks])
    ones = np.array([mask.sum() for mask in masks])
    del masks

    def nearest(skull: Mask, outline: Mask, affine: Affine) -> Mask:
        seen, hidden = np.packbits(skull & ~outline), np.packbits(outline)
        both = _count(packed & seen)
        dice = 2 * both / (ones - _count(packed & hidden) + _count(seen[None]))
        best: Mask = np.unpackbits(packed[dice.argmax()], count=size).reshape(shape).astype(bool)
        return best

    return nearest


def _count(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the number of ones in each row."""
    ones: npt.NDArray[np.int64] = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
    return ones


def mirror_baseline() -> Baseline:
    """Return the baseline of surgical planning: the mirrored bone of the other side.

    `mirror` does not depend on the outline, so the result of the last skull is kept: it is used
    once with the predicted outline and once with the true one.
    """
    last: list[tuple[bytes, Mask]] = []

    def other_side(skull: Mask, outline: Mask, affine: Affine) -> Mask:
        key = skull.tobytes() + affine.tobytes()
        if not last or last[0][0] != key:
            last[:] = [(key, mirror(skull, affine))]
        return last[0][1]

    return other_side
