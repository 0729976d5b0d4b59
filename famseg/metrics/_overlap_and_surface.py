"""Scores of one predicted mask against the true one, in mm and in voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from famseg.metrics._masks import (
    Empty,
    as_masks,
    as_spacing,
    as_tolerance,
    as_volumes,
    check_empty,
)
from famseg.metrics._surface import (
    Distances,
    Mask,
    Spacing,
    distances_mm_and_voxels,
    flat_axis,
)

DISTANCES = ("hd", "hd95", "hd95_directed", "hd95_pooled", "assd")


def dice(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the Dice coefficient (DSC) of two masks: ``2 |P and T| / (|P| + |T|)``.

    Two empty masks agree: 1. One empty mask: 0.

    Args:
        prediction: Mask, any shape: bool, or numbers that are all 0 or 1; an array or a tensor.
        truth: Mask of the same shape.

    Raises:
        ValueError: If the shapes differ or a value is neither 0 nor 1.

    Example:
        >>> dice([1, 1, 0, 0], [1, 0, 0, 0])
        0.6666666666666666
    """
    prediction, truth = as_masks(prediction, truth)
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(prediction & truth)) / total if total else 1.0


def surface_scores(
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    spacing_mm: Sequence[float],
    *,
    tolerance_mm: float | None = None,
    empty: Empty = "diagonal",
) -> dict[str, float]:
    """Score the surface of a predicted mask against the true one.

    Keys, each distance also in voxels (``hd_voxels`` and so on: the same with unit spacing):

    - ``hd_mm``: Hausdorff distance between voxel borders, the larger of both directions. As MONAI.
    - ``hd95_mm``: 95th percentile by surface area: the distance that 95 % of a surface's area keeps
      to the other surface; the larger of both directions.
    - ``hd95_directed_mm``: 95th percentile over the border voxels, each counting alike; the larger
      of both directions. As MONAI.
    - ``hd95_pooled_mm``: 95th percentile over the border voxels of both directions together. As
      medpy and AutoImplant.
    - ``assd_mm``: mean distance by surface area over both surfaces.
    - ``nsd``: share of the area of both surfaces that lies within the tolerance of the other one.

    Borders lie in voxel centres and surface elements between voxels, so that in thin structures
    ``hd95_mm`` may exceed ``hd_mm`` by about a voxel.

    One empty mask: the distances are the image's diagonal, which no distance in it exceeds, and
    ``nsd`` is 0. Two empty masks: the distances are 0 and ``nsd`` is 1.

    Time and memory are linear in the joint bounding box of the masks, whatever is in it.

    Args:
        prediction: Mask, shape ``(X, Y, Z)``: bool, or numbers that are all 0 or 1; an array or a
            tensor, which is copied to the CPU once. Of a slice, ``(X, Y)`` or one voxel thick, the
            outline is what is measured.
        truth: Mask of the same shape.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm; along X and Y for ``(X, Y)``.
        tolerance_mm: Distance up to which ``nsd`` calls a surface right, 0 or more; None for one
            voxel (the longest edge).
        empty: ``diagonal``: the rule above; ``nan``: NaN where a formula has no value; ``raise``:
            no score for empty masks.

    Raises:
        ValueError: If a mask is neither three-dimensional nor a slice, the shapes differ, a value
            is neither 0 nor 1, a spacing is not positive, the tolerance negative, or a mask is
            empty and must not be.

    Example:
        >>> truth = np.zeros((16, 16, 16), dtype=bool)
        >>> truth[4:10, 4:10, 4:10] = True
        >>> scores = surface_scores(np.roll(truth, 2, axis=0), truth, (1.5, 1.5, 1.5))
        >>> scores["hd_mm"], scores["hd_voxels"]
        (3.0, 2.0)
    """
    spacing = as_spacing(spacing_mm, np.ndim(prediction))
    prediction, truth = as_volumes(prediction, truth)
    tolerance = as_tolerance(tolerance_mm, spacing, truth.shape)
    check_empty(prediction, truth, empty)
    if not (prediction.any() and truth.any()):
        mm = without_surface(prediction, truth, spacing, empty)
        voxels = without_surface(prediction, truth, (1.0, 1.0, 1.0), empty)
        return _named(mm, "mm") | {"nsd": mm["nsd"]} | _named(voxels, "voxels")
    in_mm, in_voxels = distances_mm_and_voxels(prediction, truth, spacing)
    mm, voxels = statistics(in_mm, tolerance), statistics(in_voxels, 1.0)
    return _named(mm, "mm") | {"nsd": mm["nsd"]} | _named(voxels, "voxels")


def statistics(distances: Distances, tolerance: float) -> dict[str, float]:
    """Return the distances by name in the unit they came in, and ``nsd``; all of them at once.

    The one place that takes ``Distances`` apart.

    Args:
        distances: Of two masks that are not empty.
        tolerance: What ``nsd`` tolerates, in their unit.
    """
    borders = distances.border_to_truth, distances.border_to_prediction
    elements = distances.element_to_truth, distances.element_to_prediction
    surface = elements[0].pooled(elements[1])
    return {
        "hd": max(each.max() for each in borders),
        "hd95": max(each.percentile(95) for each in elements),
        "hd95_directed": max(each.percentile_by_rank(95) for each in borders),
        "hd95_pooled": borders[0].pooled(borders[1]).percentile_by_rank(95),
        "assd": surface.mean(),
        "nsd": surface.share_within(tolerance),
    }


def without_surface(
    prediction: Mask, truth: Mask, spacing: Spacing, empty: Empty
) -> dict[str, float]:
    """Return what ``statistics`` does where a mask is empty, by the rule."""
    missed = bool(prediction.any()) != bool(truth.any())
    across = flat_axis(prediction.shape)
    edges = [
        length * edge
        for axis, (length, edge) in enumerate(zip(prediction.shape, spacing, strict=True))
        if axis != across
    ]
    distance = float(np.linalg.norm(edges)) if missed else 0.0
    nsd = 0.0 if missed else 1.0
    if empty == "nan":
        # Of one surface alone no part lies near another: a share of nothing is no number.
        distance, nsd = math.nan, nsd if missed else math.nan
    return dict.fromkeys(DISTANCES, distance) | {"nsd": nsd}


def _named(values: dict[str, float], unit: str) -> dict[str, float]:
    return {f"{name}_{unit}": values[name] for name in DISTANCES}
