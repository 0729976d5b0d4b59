"""All metrics of a predicted mask and its reference in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from famseg.metrics._catalogue import SCORES, MetricValues, measure
from famseg.metrics._masks import Empty, check_shapes
from famseg.metrics._pair import Kind, as_pair
from famseg.metrics._shape import count_components, volume_ml


@dataclass(frozen=True)
class Scores(MetricValues):
    """The metrics of a predicted mask. ``docs/metrics.md`` has the formulas.

    Each metric of ``METRICS`` is an attribute, except distances in voxels: ``dsc``, ``bdsc``
    (border Dice of the implants, within 10 mm of the defective skull; None without it), ``hd_mm``,
    ``hd95_mm`` (by surface area), ``hd95_directed_mm`` (over border voxels; MONAI),
    ``hd95_pooled_mm`` (medpy and AutoImplant), ``assd_mm``, ``nsd``, ``volume_difference_ml``,
    ``volume_difference_relative``, ``components`` and ``roughness_mm`` (None if it is unknown
    which part of the mask is the implant).

    Attributes:
        volume_ml: Volume of the prediction.
        truth_volume_ml: Volume of the reference.
        truth_components: Connected components of the reference.
        tolerance_mm: The tolerance of ``nsd``.
        failed: Exactly one of the two masks is empty; for skulls also of the implants.
        empty_truth: The reference is empty.
    """

    volume_ml: float
    truth_volume_ml: float
    truth_components: int
    tolerance_mm: float
    failed: bool
    empty_truth: bool

    def flat(self) -> dict[str, float | int | None]:
        """Return all values by name: first the metrics, in the order of tables."""
        others = {each.name: getattr(self, each.name) for each in fields(self)[1:]}
        return {**self.values, **others}


def score(
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    spacing_mm: Sequence[float],
    *,
    defective: npt.ArrayLike | None = None,
    kind: Kind = "auto",
    tolerance_mm: float | None = None,
    empty: Empty = "diagonal",
) -> Scores:
    """Return all metrics of a predicted skull, implant or other mask.

    The formulas and costs are those of `dice`, `border_dice`, `surface_scores`,
    `volume_difference_ml`, `count_components` and `surface_roughness`. The surfaces are measured
    once for all distances, which takes most of the time.

    Args:
        prediction: Mask, shape ``(X, Y, Z)``: bool, or numbers that are all 0 or 1; an array or a
            tensor, which is copied to the CPU once. For a slice, of shape ``(X, Y)`` or one voxel
            thick, the outline is measured; it has no ``roughness_mm``.
        truth: Mask of the same shape.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm; along X and Y for ``(X, Y)``,
            which then counts as 1 mm thick.
        defective: The skull with the defect, same shape, for ``bdsc`` and ``roughness_mm``. For
            whole skulls these two are computed from the part that each adds to it.
        kind: Whether the masks are whole skulls or implants. ``auto``: with ``defective``, whole
            skulls if the reference contains at least half of it and implants if it contains at most
            a tenth; without ``defective``, only ``roughness_mm`` depends on it, which is computed
            for implants only.
        tolerance_mm: The tolerance of ``nsd``, 0 or more; None for one voxel (the longest edge).
        empty: The values for empty masks. ``diagonal``: if only one is empty, ``dsc``, ``bdsc`` and
            ``nsd`` are 0, distances are the image's diagonal and ``roughness_mm`` is its radius,
            the largest value of each; if both are empty, they agree. ``nan``: NaN where a formula
            has no value. ``raise``: an error. ``failed`` is set in the first case under each rule.

    Raises:
        ValueError: If the masks do not fit together, a length is not positive, the tolerance is
            negative, or a mask is empty and the rule is ``raise``.

    Example:
        >>> truth = np.zeros((16, 16, 16))
        >>> truth[4:10, 4:10, 4:10] = 1
        >>> found = score(np.roll(truth, 1, axis=2), truth, (0.5, 0.5, 2.0))
        >>> round(found.dsc, 3), round(found.hd_mm, 3), found.components, found.failed
        (0.833, 2.0, 1, False)
    """
    pair = as_pair(
        prediction,
        truth,
        spacing_mm,
        defective=defective,
        kind=kind,
        tolerance_mm=tolerance_mm,
        empty=empty,
    )
    return Scores(
        measure(pair, SCORES),
        volume_ml=volume_ml(pair.prediction, pair.spacing),
        truth_volume_ml=volume_ml(pair.truth, pair.spacing),
        truth_components=count_components(pair.truth),
        tolerance_mm=pair.tolerance,
        failed=pair.failed,
        empty_truth=not pair.truth.any(),
    )


def score_labels(
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    spacing_mm: Sequence[float],
    *,
    labels: Sequence[int] | None = None,
    tolerance_mm: float | None = None,
    empty: Empty = "diagonal",
) -> dict[int, Scores]:
    """Return the metrics of each label of two label maps, as of separate masks.

    Args:
        prediction: Label map, shape ``(X, Y, Z)``, whole numbers; an array or a tensor.
        truth: Label map of the same shape.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm.
        labels: The labels to measure; None for every label other than 0 in either map. Set them
            for a set of cases, so that a label that both maps lack counts too.
        tolerance_mm: As in ``score``.
        empty: As in ``score``.

    Returns:
        Scores by label, in rising order.

    Raises:
        ValueError: As ``score``, or if a label map contains a number that is not whole.

    Example:
        >>> truth = np.zeros((8, 8, 8), dtype=int)
        >>> truth[1:4], truth[4:7] = 1, 2
        >>> {label: found.dsc for label, found in score_labels(truth, truth, (1, 1, 1)).items()}
        {1: 1.0, 2: 1.0}
    """
    maps = {"prediction": _labels(prediction, "prediction"), "truth": _labels(truth, "truth")}
    check_shapes("prediction", maps["prediction"], "truth", maps["truth"])
    if labels is None:
        labels = [int(each) for each in np.union1d(*map(np.unique, maps.values())) if each != 0]
    return {
        label: score(
            maps["prediction"] == label,
            maps["truth"] == label,
            spacing_mm,
            tolerance_mm=tolerance_mm,
            empty=empty,
        )
        for label in sorted(labels)
    }


def _labels(values: npt.ArrayLike, name: str) -> npt.NDArray[np.int64]:
    tensor = hasattr(values, "detach")
    array = np.asarray(values.detach().cpu() if tensor else values)  # type: ignore[union-attr]
    if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
        raise ValueError(
            f"{name} must contain whole numbers, one for each label. Take the argmax first."
        )
    return array
