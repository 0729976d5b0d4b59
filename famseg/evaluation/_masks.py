"""What scores take: masks as arrays or tensors, spacings, and the rule for empty masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from famseg.evaluation._surface import Mask, Spacing

Empty = Literal["diagonal", "nan", "raise"]

EMPTY: tuple[Empty, ...] = get_args(Empty)


def as_mask(values: npt.ArrayLike, name: str) -> Mask:
    """Return a mask as bool, or raise the ValueError that says what to mend.

    A tensor is checked and thresholded where it is, and leaves its device once, as one byte a
    voxel. Bool arrays and tensors on the CPU are not copied.

    Args:
        values: An array, a tensor or nested lists: bool, or numbers that are all 0 or 1.
        name: What the message calls it.

    Raises:
        ValueError: If a value is neither 0 nor 1.
    """
    tensor = hasattr(values, "detach")  # of torch, which is not imported for an array
    array: Any = values.detach() if tensor else np.asarray(values)  # type: ignore[union-attr]
    if str(array.dtype) not in ("bool", "torch.bool"):
        mask = array == 1
        if not bool((mask | (array == 0)).all()):
            numbers = bool((abs(array) < np.inf).all())  # NaN is not
            kind = "probabilities or logits" if numbers else "NaN or infinity"
            raise ValueError(
                f"{name} must hold 0 and 1 alone, it holds {kind}. Threshold it: probability > 0.5."
            )
        array = mask
    return np.asarray(array.cpu()) if tensor else array


def as_masks(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Mask, Mask]:
    """Return both masks as bool, or raise the ValueError that says what to mend."""
    masks = as_mask(prediction, "prediction"), as_mask(truth, "truth")
    check_shapes("prediction", masks[0], "truth", masks[1])
    return masks


def as_volumes(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Mask, Mask]:
    """Return both masks as bool and three-dimensional, or raise the ValueError."""
    masks = as_masks(prediction, truth)
    check_volume(masks[0])
    return masks


def as_skull(defective: npt.ArrayLike, truth: Mask) -> Mask:
    """Return a defective skull as bool on the truth's grid, or raise the ValueError."""
    skull = as_mask(defective, "defective")
    check_shapes("defective", skull, "truth", truth)
    if not skull.any():
        raise ValueError("defective is empty: it has no border. Give the skull with the hole.")
    return skull


def check_volume(mask: Mask) -> None:
    """Raise the ValueError if a mask is not three-dimensional."""
    if mask.ndim != 3:
        raise ValueError(
            f"masks must have shape (X, Y, Z), got {mask.shape}. "
            "Take them out of batch and channel first."
        )


def check_shapes(
    name: str, mask: npt.NDArray[Any], other_name: str, other: npt.NDArray[Any]
) -> None:
    """Raise the ValueError if two masks have different shapes."""
    if mask.shape != other.shape:
        raise ValueError(
            f"{name} has shape {mask.shape} and {other_name} {other.shape}. "
            "Bring both to one grid: scores compare voxel by voxel."
        )


def as_spacing(spacing_mm: Sequence[float]) -> Spacing:
    """Return a spacing as three floats, or raise the ValueError that says what to mend."""
    values = tuple(float(value) for value in spacing_mm)
    if len(values) != 3 or not all(np.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"spacing_mm must be three positive lengths in mm, got {values}.")
    return values


def as_tolerance(tolerance_mm: float | None, spacing: Spacing) -> float:
    """Return the tolerance of ``nsd``: one voxel (the longest edge) unless given."""
    tolerance = max(spacing) if tolerance_mm is None else float(tolerance_mm)
    if not 0 < tolerance < np.inf:
        raise ValueError(f"tolerance_mm must be a positive length in mm, got {tolerance}.")
    return tolerance


def check_empty(prediction: Mask, truth: Mask, empty: Empty) -> None:
    """Raise the ValueError for an unknown rule, or for an empty mask where the rule is to raise."""
    if empty not in EMPTY:
        raise ValueError(f"empty is {empty!r}. Choose from {', '.join(EMPTY)}.")
    if empty == "raise":
        for name, mask in (("prediction", prediction), ("truth", truth)):
            if not mask.any():
                raise ValueError(
                    f"{name} is empty. Score it with empty='diagonal' (the worst value, counted as "
                    "failed) or empty='nan'."
                )
