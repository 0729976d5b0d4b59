"""Two masks ready to be scored, and the computation of what is asked for."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from famseg.evaluation._masks import (
    Empty,
    as_skull,
    as_spacing,
    as_tolerance,
    as_volumes,
    check_empty,
)
from famseg.evaluation._metrics import DISTANCES, dice, statistics, without_surface
from famseg.evaluation._roughness import default_radius_mm, surface_roughness
from famseg.evaluation._shape import BORDER_MM, count_components, near_skull, volume_ml
from famseg.evaluation._surface import Mask, Spacing, flat_axis, surface_distances

Kind = Literal["auto", "skull", "implant"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SCORES = (
    *("dsc", "bdsc", "hd_mm", "hd95_mm", "hd95_directed_mm", "hd95_pooled_mm", "assd_mm", "nsd"),
    *("volume_difference_ml", "volume_difference_relative", "components", "roughness_mm"),
)
"""Names of the scores, in the order of tables."""

_SURFACE = frozenset(f"{name}_mm" for name in DISTANCES) | {"nsd"}
# A truth that holds this share of the defective skull is a whole skull; so little, an implant.
_WHOLE, _APART = 0.5, 0.1


@dataclass(frozen=True, eq=False)
class Pair:
    """Two masks ready to be scored.

    Attributes:
        implants: Prediction and truth as implants; None where nothing says what is one.
        defective: The skull with the hole.
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

    @property
    def failed(self) -> bool:
        """One mask is empty and the other is not, of the skulls or of the implants in them."""
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
    """Check what ``score`` is given."""
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


def measure(pair: Pair, names: Collection[str]) -> dict[str, float | int | None]:
    """Return the wanted scores, and compute nothing else."""
    found: dict[str, float | int | None] = {}
    if "dsc" in names:
        both_empty = not (pair.prediction.any() or pair.truth.any())
        undefined = both_empty and pair.empty == "nan"
        found["dsc"] = math.nan if undefined else dice(pair.prediction, pair.truth)
    if "bdsc" in names:
        found["bdsc"] = _border(pair)
    if _SURFACE & set(names):
        found |= _surface(pair)
    volumes = [volume_ml(mask, pair.spacing) for mask in (pair.prediction, pair.truth)]
    found["volume_difference_ml"] = volumes[0] - volumes[1]
    found["volume_difference_relative"] = _relative(volumes[0], volumes[1], pair.empty)
    if "components" in names:
        found["components"] = count_components(pair.prediction)
    if "roughness_mm" in names:
        found["roughness_mm"] = _roughness(pair)
    return {name: found[name] for name in SCORES if name in names}


def _is_skull(truth: Mask, skull: Mask) -> bool:
    """Whether the truth is a whole skull around the defective one; an implant otherwise."""
    share = np.count_nonzero(truth & skull) / np.count_nonzero(skull)
    if _APART < share < _WHOLE:
        raise ValueError(
            f"the truth holds {share:.0%} of the defective skull: as a skull it should hold it all "
            "and as an implant nothing. Is one of another subject? If not, say the kind."
        )
    return bool(share >= _WHOLE)


def _surface(pair: Pair) -> dict[str, float]:
    if pair.prediction.any() and pair.truth.any():
        distances = surface_distances(pair.prediction, pair.truth, pair.spacing)
        values = statistics(distances, pair.tolerance)
    else:
        values = without_surface(pair.prediction, pair.truth, pair.spacing, pair.empty)
    return {f"{name}_mm": values[name] for name in DISTANCES} | {"nsd": values["nsd"]}


def _border(pair: Pair) -> float | None:
    if pair.defective is None or pair.implants is None:
        return None
    prediction, truth = pair.implants
    if pair.rim is None:
        near = near_skull(prediction | truth, pair.defective, pair.spacing, BORDER_MM)
    else:
        near = (prediction | truth) & pair.rim
    if near.any():
        return dice(prediction & near, truth & near)
    if pair.empty == "nan":
        return math.nan
    # Nothing near the border is right only where there was nothing to find.
    return 0.0 if pair.failed else 1.0


def _roughness(pair: Pair) -> float | None:
    if pair.implants is None or flat_axis(pair.truth.shape) is not None:
        return None  # a slice has an outline, no surface
    prediction, truth = pair.implants
    if pair.empty == "diagonal" and not (prediction.any() and truth.any()):
        return default_radius_mm(pair.spacing) if prediction.any() or truth.any() else 0.0
    return surface_roughness(prediction, pair.spacing)


def _relative(volume: float, wanted: float, empty: Empty) -> float:
    if wanted:
        return (volume - wanted) / wanted
    if empty == "nan":
        return math.nan
    return 1.0 if volume else 0.0
