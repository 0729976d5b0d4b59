"""The catalogue of metrics: one row for each, with its name, label, unit and function.

A new metric is one function and one row here. ``score``, ``SkullMetric``, tables of cases,
summaries, pages and comparisons take names, labels, units and decimals from the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from famseg.metrics._overlap_and_surface import DISTANCES, dice
from famseg.metrics._pair import Pair
from famseg.metrics._roughness import default_radius_mm, surface_roughness
from famseg.metrics._shape import BORDER_MM, count_components, near_skull, volume_ml
from famseg.metrics._surface import flat_axis

Value = float | int | None
"""The value of a metric; None where the metric does not apply to a pair of masks."""


@dataclass(frozen=True)
class Metric:
    """A metric: its name, how it is shown and how it is computed.

    Attributes:
        name: Its key in tables, files and MLflow; distances and volumes end with their unit.
        label: Its displayed name.
        unit: ``mm``, ``ml`` or voxels, the range ``0 to 1``, or empty for a count.
        digits: Decimals of a mean in tables.
        better: Which values are better: larger or smaller ones, or those near zero.
        compute: Returns the value for a pair of masks.
        short: Its header in the narrow table of ``famseg metrics``; empty if it is not shown there.
        whole: Values are whole numbers.
        optional: Its value is None if it is unknown which part of a mask is the implant.
        in_scores: ``score`` returns it, and summaries have a row for it.
        in_cases: It is a column of ``cases.csv``.
    """

    name: str
    label: str
    unit: str
    digits: int
    better: Literal["larger", "smaller", "near zero"]
    compute: Callable[[Pair], Value]
    short: str = ""
    whole: bool = False
    optional: bool = False
    in_scores: bool = True
    in_cases: bool = True

    @property
    def header(self) -> str:
        """The label with its unit, as in tables."""
        return f"{self.label} {self.unit}" if self.unit in ("mm", "ml", "voxels") else self.label


def _dsc(pair: Pair) -> float:
    """``2 |P and T| / (|P| + |T|)`` (Dice 1945); 1 for two empty masks. See `dice`."""
    if pair.empty == "nan" and not (pair.prediction.any() or pair.truth.any()):
        return math.nan
    return dice(pair.prediction, pair.truth)


def _border_dsc(pair: Pair) -> float | None:
    """The DSC within 10 mm of the defective skull (AutoImplant 2021). See `border_dice`."""
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
    # No voxel near the border is correct only if the reference implant is empty.
    return 0.0 if pair.failed else 1.0


def _surface(name: str) -> Callable[[Pair], float]:
    return lambda pair: pair.surface[name]


def _voxels(name: str) -> Callable[[Pair], float]:
    return lambda pair: pair.surface_in_both_units[name]


def _volume_difference(pair: Pair) -> float:
    """``(|P| - |T|) v`` in ml, with ``v`` the volume of a voxel. See `volume_difference_ml`."""
    return volume_ml(pair.prediction, pair.spacing) - volume_ml(pair.truth, pair.spacing)


def _relative_difference(pair: Pair) -> float:
    """``(|P| - |T|) / |T|`` (Heimann et al., IEEE TMI 28, 2009); 1 if only the reference is empty.

    Linear in the number of voxels.

    Example:
        >>> from famseg.metrics import score
        >>> score([[1, 1, 1]], [[1, 1, 0]], (1, 1)).volume_difference_relative  # (3 - 2) / 2
        0.5
    """
    volume, wanted = (volume_ml(mask, pair.spacing) for mask in (pair.prediction, pair.truth))
    if wanted:
        return (volume - wanted) / wanted
    if pair.empty == "nan":
        return math.nan
    return 1.0 if volume else 0.0


def _components(pair: Pair) -> int:
    """Components of the prediction, connected through voxel faces. See `count_components`."""
    return count_components(pair.prediction)


def _roughness(pair: Pair) -> float | None:
    """Deviation of the predicted implant's surface from a smooth one. See `surface_roughness`."""
    if pair.implants is None or flat_axis(pair.truth.shape) is not None:
        return None  # a slice has an outline but no surface
    prediction, truth = pair.implants
    if pair.empty == "diagonal" and not (prediction.any() and truth.any()):
        return default_radius_mm(pair.spacing) if prediction.any() or truth.any() else 0.0
    return surface_roughness(prediction, pair.spacing)


def _volumetric_similarity(pair: Pair) -> float:
    """``1 - ||P| - |T|| / (|P| + |T|)`` (Taha and Hanbury, BMC Med Imaging 15, 2015).

    1 for two empty masks. It compares volumes, not places: disjoint masks of one size have 1.
    Linear in the number of voxels.

    Example:
        >>> from famseg.metrics import score
        >>> score([[1, 1, 1]], [[1, 1, 0]], (1, 1)).volumetric_similarity  # 1 - 1 / 5
        0.8
    """
    sizes = [int(np.count_nonzero(mask)) for mask in (pair.prediction, pair.truth)]
    if not any(sizes):
        return math.nan if pair.empty == "nan" else 1.0
    return 1.0 - abs(sizes[0] - sizes[1]) / sum(sizes)


METRICS = (
    Metric("dsc", "DSC", "0 to 1", 3, "larger", _dsc, "DSC"),
    Metric("bdsc", "border DSC", "0 to 1", 3, "larger", _border_dsc, "bDSC", optional=True),
    Metric("hd_mm", "HD", "mm", 2, "smaller", _surface("hd_mm"), "HD"),
    Metric("hd95_mm", "HD95", "mm", 2, "smaller", _surface("hd95_mm"), "HD95"),
    Metric("hd95_directed_mm", "HD95 directed", "mm", 2, "smaller", _surface("hd95_directed_mm")),
    Metric("hd95_pooled_mm", "HD95 pooled", "mm", 2, "smaller", _surface("hd95_pooled_mm")),
    Metric("assd_mm", "ASSD", "mm", 2, "smaller", _surface("assd_mm"), "ASSD"),
    Metric("nsd", "NSD", "0 to 1", 3, "larger", _surface("nsd"), "NSD"),
    Metric(
        "volume_difference_ml",
        "volume diff.",
        "ml",
        2,
        "near zero",
        _volume_difference,
        "volume",
    ),
    Metric(
        "volume_difference_relative",
        "relative volume diff.",
        "of the reference",
        3,
        "near zero",
        _relative_difference,
        in_cases=False,
    ),
    Metric("components", "components", "", 1, "smaller", _components, "pieces", whole=True),
    Metric("roughness_mm", "roughness", "mm", 2, "smaller", _roughness, "rough", optional=True),
    Metric(
        "volumetric_similarity",
        "vol. similarity",
        "0 to 1",
        3,
        "larger",
        _volumetric_similarity,
    ),
    *(
        Metric(
            *(f"{name}_voxels", name.upper().replace("_", " "), "voxels", 2, "smaller"),
            _voxels(f"{name}_voxels"),
            in_scores=False,
        )
        for name in DISTANCES
    ),
)
"""Every metric, in the order of tables."""

BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
SCORES = tuple(metric.name for metric in METRICS if metric.in_scores)
"""Names of the metrics that ``score`` returns, in the order of tables."""


def measure(pair: Pair, names: Collection[str]) -> dict[str, Value]:
    """Return the metrics with these names for a pair of masks; no other is computed."""
    if any(name.endswith("_voxels") for name in names):
        _ = pair.surface_in_both_units  # caches both units in one pass over the surfaces
    return {metric.name: metric.compute(pair) for metric in METRICS if metric.name in names}


@dataclass(frozen=True)
class MetricValues:
    """Values of metrics, each also an attribute by the name of its row: ``found.dsc``.

    Attributes:
        values: The values by name, in the order of ``METRICS``.
    """

    values: Mapping[str, Value]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 -- a float, an int or None, by the row
        # Called only for names that are not fields. While an object is copied or unpickled,
        # `values` does not exist yet: without the guard this would recurse for ever.
        if name != "values" and name in self.values:
            return self.values[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
