"""Dice coefficient and surface distances of a predicted mask and its reference."""

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

    Dice, Ecology 26, 1945. Two empty masks agree: 1. If only one is empty: 0. Time is linear in the
    number of voxels.

    Args:
        prediction: Mask, any shape: bool, or numbers that are all 0 or 1; an array or a tensor.
        truth: Mask of the same shape.

    Raises:
        ValueError: If the shapes differ or a value is neither 0 nor 1.

    Example:
        >>> dice([1, 1, 0, 0], [1, 0, 0, 0])  # 2 * 1 / (2 + 1)
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
    """Return the surface metrics of a predicted mask and its reference.

    Let ``d`` be the distance from a point of one surface to the nearest point of the other, and
    ``a`` the area of a surface element. Keys, each distance also in voxels (``hd_voxels`` and so
    on: the same with unit spacing):

    - ``hd_mm``: Hausdorff distance between voxel borders: the maximum of ``d`` over both
      directions. The same definition as in MONAI.
    - ``hd95_mm``: 95th percentile by surface area: the smallest distance that ``d`` does not exceed
      on 95 % of a surface's area; the larger of both directions. The robust Hausdorff distance of
      Nikolov et al. (J Med Internet Res 23, 2021).
    - ``hd95_directed_mm``: 95th percentile over the border voxels, each with the same weight; the
      larger of both directions. The same definition as in MONAI.
    - ``hd95_pooled_mm``: 95th percentile over the border voxels of both directions together. The
      same definition as in medpy and AutoImplant.
    - ``assd_mm``: average symmetric surface distance, ``sum(a d) / sum(a)`` over both surfaces.
    - ``nsd``: normalized surface Dice, the share of the area of both surfaces where ``d`` is at
      most the tolerance (Nikolov et al.).

    Border points are voxel centers, and surface elements are located between voxels; for this
    reason ``hd95_mm`` may exceed ``hd_mm`` by about a voxel in thin structures.

    If only one mask is empty, the distances are the image's diagonal, which no distance in it
    exceeds, and ``nsd`` is 0. If both are empty, the distances are 0 and ``nsd`` is 1.

    Time and memory are linear in the joint bounding box of the masks, whatever its content.

    Args:
        prediction: Mask, shape ``(X, Y, Z)``: bool, or numbers that are all 0 or 1; an array or a
            tensor, which is copied to the CPU once. For a slice, of shape ``(X, Y)`` or one voxel
            thick, the outline is measured.
        truth: Mask of the same shape.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm; along X and Y for ``(X, Y)``.
        tolerance_mm: Distance up to which ``nsd`` counts a surface as correct, 0 or more; None for
            one voxel (the longest edge).
        empty: ``diagonal``: the rule above; ``nan``: NaN where a formula has no value; ``raise``:
            an error for empty masks.

    Raises:
        ValueError: If a mask is neither three-dimensional nor a slice, the shapes differ, a value
            is neither 0 nor 1, a spacing is not positive, the tolerance is negative, or a mask is
            empty and the rule is ``raise``.

    Example:
        A cube moved by two voxels. Its two walls across the movement, a third of the surface, are
        3 mm away; the sides overlap in part.

        >>> truth = np.zeros((16, 16, 16), dtype=bool)
        >>> truth[4:10, 4:10, 4:10] = True
        >>> scores = surface_scores(np.roll(truth, 2, axis=0), truth, (1.5, 1.5, 1.5))
        >>> scores["hd_mm"], scores["hd_voxels"], scores["hd95_mm"]
        (3.0, 2.0, 3.0)
        >>> round(scores["assd_mm"], 2), round(scores["nsd"], 2)  # within one voxel, 1.5 mm
        (1.06, 0.75)
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
    """Return every distance by name, in the unit of its argument, and ``nsd``.

    Only this function reads ``Distances``, so that each definition is in one place.

    Args:
        distances: Distances between the surfaces of two masks that are not empty.
        tolerance: The tolerance of ``nsd``, in their unit.

    Example:
        >>> from famseg.metrics._profile import Profile
        >>> away = Profile(np.array([0.0, 1.0]), np.array([3.0, 1.0]))  # 3 mm2 at 0, 1 mm2 at 1 mm
        >>> here = Profile(np.array([0.0]), np.array([4.0]))
        >>> found = statistics(Distances(away, here, away, here), tolerance=0.5)
        >>> found["hd"], found["hd95"], found["assd"], found["nsd"]  # 1 / 8 and 7 / 8
        (1.0, 1.0, 0.125, 0.875)
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
    """Return the values of ``statistics`` for empty masks, by the rule ``empty``."""
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
        # If only one mask has a surface, no part of it is near another: nsd stays 0. Without any
        # surface, the share has no denominator.
        distance, nsd = math.nan, nsd if missed else math.nan
    return dict.fromkeys(DISTANCES, distance) | {"nsd": nsd}


def _named(values: dict[str, float], unit: str) -> dict[str, float]:
    return {f"{name}_{unit}": values[name] for name in DISTANCES}
