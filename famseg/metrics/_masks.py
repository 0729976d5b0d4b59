"""Checks of the arguments of metrics: masks, spacings, tolerances and the rule for empty masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from famseg.metrics._surface import Mask, Spacing, flat_axis

Empty = Literal["diagonal", "nan", "raise"]

EMPTY: tuple[Empty, ...] = get_args(Empty)

_MOST_NAMED = 4


def as_mask(values: npt.ArrayLike, name: str) -> Mask:
    """Return a mask as bool, or raise a ValueError that says what to fix.

    A tensor is checked and thresholded on its device, and copied to the CPU once, as one byte per
    voxel. Bool arrays and tensors on the CPU are not copied.

    Args:
        values: An array, a tensor or nested lists: bool, or numbers that are all 0 or 1.
        name: Its name in messages.

    Raises:
        ValueError: If a value is neither 0 nor 1.
    """
    tensor = hasattr(values, "detach")  # a torch tensor; torch is not imported for arrays
    array: Any = values.detach() if tensor else np.asarray(values)  # type: ignore[union-attr]
    if str(array.dtype) not in ("bool", "torch.bool"):
        mask = array == 1
        if not bool((mask | (array == 0)).all()):
            raise ValueError(_no_mask(np.asarray(array.cpu() if tensor else array), name))
        array = mask
    return np.asarray(array.cpu()) if tensor else array


def values_of(array: npt.NDArray[Any]) -> str:
    """Return the values of an array for messages: each if there are few, else their range.

    Example:
        >>> values_of(np.array([0, 255, 0])), values_of(np.arange(9))
        ('0 and 255', '9 values from 0 to 8')
    """
    values = np.unique(array)
    if len(values) > _MOST_NAMED:
        return f"{len(values)} values from {values[0]:g} to {values[-1]:g}"
    *first, last = (f"{value:g}" for value in values)
    return f"{', '.join(first)} and {last}" if first else f"only {last}"


def _no_mask(array: npt.NDArray[Any], name: str) -> str:
    start = f"{name} must contain only 0 and 1, but it contains"
    if not np.isfinite(array).all():
        return f"{start} NaN or infinity. Threshold it: probability > 0.5."
    there = values_of(array)
    if not np.array_equal(array, np.round(array)):
        return f"{start} {there}: probabilities or logits. Threshold it: probability > 0.5."
    if len(np.unique(array)) == 2:
        return f"{start} {there}. Choose the one that is the mask: {name} == {array.max():g}."
    return f"{start} {there}: labels or intensities. Choose one label: {name} == label."


def as_masks(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Mask, Mask]:
    """Return both masks as bool, or raise a ValueError that says what to fix."""
    masks = as_mask(prediction, "prediction"), as_mask(truth, "truth")
    check_shapes("prediction", masks[0], "truth", masks[1])
    return masks


def as_volumes(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Mask, Mask]:
    """Return both masks as bool and three-dimensional, or raise a ValueError.

    A slice of shape ``(X, Y)`` becomes ``(X, Y, 1)``.
    """
    masks = as_masks(prediction, truth)
    if masks[0].ndim == 2:
        return masks[0][..., None], masks[1][..., None]
    check_volume(masks[0])
    return masks


def as_skull(defective: npt.ArrayLike, truth: Mask) -> Mask:
    """Return a defective skull as bool on the grid of the reference, or raise a ValueError."""
    skull = as_mask(defective, "defective")
    skull = skull[..., None] if skull.ndim == 2 else skull
    check_shapes("defective", skull, "truth", truth)
    if not skull.any():
        raise ValueError("defective is empty, so it has no border. Give the skull with the defect.")
    return skull


def check_volume(mask: Mask) -> None:
    """Raise a ValueError if a mask is not three-dimensional."""
    if mask.ndim != 3:
        raise ValueError(
            f"masks must have shape (X, Y, Z), got {mask.shape}. "
            "Remove the batch and channel axes first."
        )


def check_shapes(
    name: str, mask: npt.NDArray[Any], other_name: str, other: npt.NDArray[Any]
) -> None:
    """Raise a ValueError if two masks have different shapes."""
    if mask.shape != other.shape:
        raise ValueError(
            f"{name} has shape {mask.shape} and {other_name} {other.shape}. "
            "Resample both to one grid: metrics compare voxel by voxel."
        )


def as_spacing(spacing_mm: Sequence[float], axes: int = 3) -> Spacing:
    """Return a spacing as three floats, or raise a ValueError that says what to fix.

    Args:
        spacing_mm: Three lengths; for a mask of two axes also two: the slice is then 1 mm thick.
        axes: The number of axes of the mask.
    """
    values = tuple(float(value) for value in spacing_mm)
    if axes == len(values) == 2:
        values = (*values, 1.0)
    if len(values) != 3 or not all(np.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"spacing_mm must be three positive lengths in mm, got {values}.")
    return values


def as_tolerance(tolerance_mm: float | None, spacing: Spacing, shape: Sequence[int] = ()) -> float:
    """Return the tolerance of ``nsd``: one voxel (the longest edge) unless given.

    Args:
        tolerance_mm: The value given; 0 accepts only points on the other surface.
        spacing: Edge lengths of a voxel.
        shape: Shape of the masks; the thickness of a slice is ignored.
    """
    across = flat_axis(shape)
    edges = [edge for axis, edge in enumerate(spacing) if axis != across]
    tolerance = max(edges) if tolerance_mm is None else float(tolerance_mm)
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance_mm must be a length in mm, 0 or more, got {tolerance}.")
    return tolerance


def check_empty(prediction: Mask, truth: Mask, empty: Empty) -> None:
    """Raise a ValueError for an unknown rule, or for an empty mask if the rule is ``raise``."""
    if empty not in EMPTY:
        raise ValueError(f"empty is {empty!r}. Choose from {', '.join(EMPTY)}.")
    if empty == "raise":
        for name, mask in (("prediction", prediction), ("truth", truth)):
            if not mask.any():
                raise ValueError(
                    f"{name} is empty. Set empty='diagonal' (it gets the worst value and counts as "
                    "failed) or empty='nan'."
                )
