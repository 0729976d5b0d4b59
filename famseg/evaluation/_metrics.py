"""Scores of one predicted mask against the true one, in mm and in voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from famseg.evaluation._surface import Distances, Floats, Mask, Spacing, surface_distances

_UNIT: Spacing = (1.0, 1.0, 1.0)
# The transform holds squared distances in single precision: one voxel must count as one voxel.
_SLACK = 1 + 1e-5


def dice(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the Dice coefficient (DSC) of two masks: ``2 |P and T| / (|P| + |T|)``.

    Two empty masks agree: 1. One empty mask: 0.

    Args:
        prediction: Mask, any shape: bool, or numbers that are all 0 or 1.
        truth: Mask of the same shape.

    Raises:
        ValueError: If the shapes differ or a value is neither 0 nor 1.

    Example:
        >>> dice([1, 1, 0, 0], [1, 0, 0, 0])
        0.6666666666666666
    """
    prediction, truth = as_masks(prediction, truth)
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else 1.0


def surface_scores(
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    spacing_mm: Sequence[float],
    *,
    tolerance_mm: float | None = None,
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

    Time and memory are linear in the joint bounding box of the masks, whatever is in it: 0.05 s for
    skulls in 64^3 and 2 s in 256^3 on one core, twice that for voxels that are not cubic.

    Args:
        prediction: Mask, shape ``(X, Y, Z)``: bool, or numbers that are all 0 or 1.
        truth: Mask of the same shape.
        spacing_mm: Edge lengths of a voxel along X, Y and Z, in mm.
        tolerance_mm: Distance up to which ``nsd`` calls a surface right; None for one voxel (the
            longest edge).

    Raises:
        ValueError: If a mask is not three-dimensional, the shapes differ, a value is neither 0 nor
            1, or the spacing or tolerance is not positive.

    Example:
        >>> truth = np.zeros((16, 16, 16), dtype=bool)
        >>> truth[4:10, 4:10, 4:10] = True
        >>> scores = surface_scores(np.roll(truth, 2, axis=0), truth, (1.5, 1.5, 1.5))
        >>> scores["hd_mm"], scores["hd_voxels"]
        (3.0, 2.0)
    """
    prediction, truth = as_masks(prediction, truth)
    if prediction.ndim != 3:
        raise ValueError(
            f"masks must have shape (X, Y, Z), got {prediction.shape}. "
            "Take them out of batch and channel first."
        )
    spacing = as_spacing(spacing_mm)
    tolerance = max(spacing) if tolerance_mm is None else tolerance_mm
    if not 0 < tolerance < np.inf:
        raise ValueError(f"tolerance_mm must be a positive length in mm, got {tolerance}.")
    if not (prediction.any() and truth.any()):
        return _without_surface(prediction, truth, spacing)
    # Cubic voxels are measured once, in voxels, where squared distances are whole numbers.
    cubic = max(spacing) - min(spacing) < 1e-6 * max(spacing)
    in_voxels = surface_distances(prediction, truth, _UNIT)
    voxels, nsd = _statistics(in_voxels, tolerance / max(spacing))
    if cubic:
        mm = {name: value * max(spacing) for name, value in voxels.items()}
    else:
        mm, nsd = _statistics(surface_distances(prediction, truth, spacing), tolerance)
    return _named(mm, voxels, nsd)


def as_masks(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Mask, Mask]:
    """Return both masks as bool, or raise the ValueError that says what to mend."""
    masks = _as_mask(prediction, "prediction"), _as_mask(truth, "truth")
    if masks[0].shape != masks[1].shape:
        raise ValueError(
            f"prediction has shape {masks[0].shape} and truth {masks[1].shape}. "
            "Bring both to one grid: scores compare voxel by voxel."
        )
    return masks


def as_spacing(spacing_mm: Sequence[float]) -> Spacing:
    """Return a spacing as three floats, or raise the ValueError that says what to mend."""
    values = tuple(float(value) for value in spacing_mm)
    if len(values) != 3 or not all(np.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"spacing_mm must be three positive lengths in mm, got {values}.")
    return values


def _as_mask(values: npt.ArrayLike, name: str) -> Mask:
    array = np.asarray(values)
    if array.dtype == np.bool_:
        return array
    mask: Mask = array == 1
    if not np.all(mask | (array == 0)):
        kind = "probabilities or logits" if np.all(np.isfinite(array)) else "NaN or infinity"
        raise ValueError(
            f"{name} must hold 0 and 1 alone, it holds {kind}. Threshold it: probability > 0.5."
        )
    return mask


def _without_surface(prediction: Mask, truth: Mask, spacing: Spacing) -> dict[str, float]:
    """Apply the rule for empty masks."""
    shape = np.array(prediction.shape)
    missed = bool(prediction.any()) != bool(truth.any())
    diagonal_mm = float(np.linalg.norm(shape * spacing)) if missed else 0.0
    diagonal_voxels = float(np.linalg.norm(shape)) if missed else 0.0
    names = ("hd", "hd95", "hd95_directed", "hd95_pooled", "assd")
    return _named(
        dict.fromkeys(names, diagonal_mm),
        dict.fromkeys(names, diagonal_voxels),
        0.0 if missed else 1.0,
    )


def _named(mm: dict[str, float], voxels: dict[str, float], nsd: float) -> dict[str, float]:
    return (
        {f"{name}_mm": value for name, value in mm.items()}
        | {"nsd": nsd}
        | {f"{name}_voxels": value for name, value in voxels.items()}
    )


def _statistics(distances: Distances, tolerance: float) -> tuple[dict[str, float], float]:
    """Return the distances by name, in the unit they came in, and the normalised surface Dice."""
    borders = distances.border_to_truth, distances.border_to_prediction
    both = np.concatenate([distances.element_to_truth, distances.element_to_prediction])
    areas = np.concatenate([distances.prediction_areas, distances.truth_areas])
    values = {
        "hd": max(float(each.max()) for each in borders),
        "hd95": max(
            _percentile_by_area(distances.element_to_truth, distances.prediction_areas),
            _percentile_by_area(distances.element_to_prediction, distances.truth_areas),
        ),
        "hd95_directed": max(float(np.percentile(each, 95)) for each in borders),
        "hd95_pooled": float(np.percentile(np.concatenate(borders), 95)),
        "assd": float((both * areas).sum() / areas.sum()),
    }
    return values, float(areas[both <= tolerance * _SLACK].sum() / areas.sum())


def _percentile_by_area(distances: Floats, areas: Floats, percent: float = 95) -> float:
    """Return the smallest distance that ``percent`` of the area does not exceed."""
    order = np.argsort(distances, kind="stable")
    area = np.cumsum(areas[order])
    wanted = area[-1] * percent / 100 * (1 - 1e-12)  # rounding must not skip to the next distance
    return float(distances[order[np.searchsorted(area, wanted)]])
