"""A prediction and its reference, checked and ready to be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from famseg.metrics._masks import (
    Empty,
    as_skull,
    as_spacing,
    as_tolerance,
    as_volumes,
    check_empty,
)
from famseg.metrics._overlap_and_surface import (
    DISTANCES,
    statistics,
    surface_scores,
    without_surface,
)
from famseg.metrics._surface import Mask, Spacing, surface_distances

Kind = Literal["auto", "skull", "implant"]

KINDS: tuple[Kind, ...] = get_args(Kind)
# A reference that contains at least this share of the defective skull is a whole skull; one that
# contains at most the second share is an implant.
_WHOLE, _APART = 0.5, 0.1


@dataclass(frozen=True, eq=False)
class Pair:
    """A prediction and its reference, checked and ready to be measured.

    Attributes:
        prediction: Mask, shape ``(X, Y, Z)``.
        truth: The reference, same shape.
        spacing: Edge lengths of a voxel in mm.
        tolerance: The tolerance of ``nsd`` in mm.
        empty: The rule for empty masks.
        implants: Prediction and reference as implants; None where the implants are unknown.
        defective: The skull with the defect.
        rim: The voxels within 10 mm of it, where they are known already.
    """

    prediction: Mask
    truth: Mask
    spacing: Spacing
    tolerance: float
    empty: Empty
    implants: tuple[Mask, Mask] | None
    defective: Mask | None
    rim: Mask | None = None

    @cached_property
    def surface(self) -> Mapping[str, float]:
        """Distances in mm and ``nsd``, by name; computed once."""
        if "surface_in_both_units" in vars(self):
            return self.surface_in_both_units
        if self.prediction.any() and self.truth.any():
            found = surface_distances(self.prediction, self.truth, self.spacing)
            values = statistics(found, self.tolerance)
        else:
            values = without_surface(self.prediction, self.truth, self.spacing, self.empty)
        return {f"{name}_mm": values[name] for name in DISTANCES} | {"nsd": values["nsd"]}

    @cached_property
    def surface_in_both_units(self) -> Mapping[str, float]:
        """The values of `surface` and the distances in voxels, by name; computed once."""
        return surface_scores(
            *(self.prediction, self.truth, self.spacing),
            tolerance_mm=self.tolerance,
            empty=self.empty,
        )

    @property
    def failed(self) -> bool:
        """Whether exactly one mask of a pair is empty: of the masks, or of the implants in them."""
        pairs = [(self.prediction, self.truth), *([self.implants] if self.implants else [])]
        return any(bool(one.any()) != bool(other.any()) for one, other in pairs)


def as_pair(
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    spacing_mm: Sequence[float],
    *,
    defective: npt.ArrayLike | None,
    kind: Kind,
    tolerance_mm: float | None,
    empty: Empty,
) -> Pair:
    """Return the checked arguments of ``score``, which describes them, as a pair."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}. Choose from {', '.join(KINDS)}.")
    spacing = as_spacing(spacing_mm, np.ndim(prediction))
    prediction, truth = as_volumes(prediction, truth)
    check_empty(prediction, truth, empty)
    implants = (prediction, truth) if kind == "implant" else None
    skull = None
    if defective is not None:
        skull = as_skull(defective, truth)
        whole = _is_skull(truth, skull) if kind == "auto" else kind == "skull"
        implants = (prediction & ~skull, truth & ~skull) if whole else (prediction, truth)
    tolerance = as_tolerance(tolerance_mm, spacing, truth.shape)
    return Pair(prediction, truth, spacing, tolerance, empty, implants, skull)


def _is_skull(truth: Mask, skull: Mask) -> bool:
    """Whether the reference is a whole skull that contains the defective one, or an implant."""
    share = np.count_nonzero(truth & skull) / np.count_nonzero(skull)
    if _APART < share < _WHOLE:
        raise ValueError(
            f"the reference contains {share:.0%} of the defective skull: a whole skull contains "
            "all of it and an implant nothing. Are both of the same subject? If so, set kind."
        )
    return bool(share >= _WHOLE)
