"""Contestants: each takes two masks and returns the distances of their surfaces in mm.

Conversion of the masks (to a tensor, an image) is not measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from _measure import missing
from _metrics_pairs import Pair

from famseg.metrics import dice, surface_scores

Scores = dict[str, float]
OURS, MONAI = "famseg, all scores", "MONAI, HD95"


@dataclass(frozen=True)
class Scorer:
    """A contestant.

    Attributes:
        name: In the tables.
        package: Name of its package for pip.
        ready: Takes a pair and returns the timed function.
        exact: The same for all its distances, which are compared with the truth.
        missing: What to install if its package is missing.
    """

    name: str
    package: str
    ready: Callable[[Pair], Callable[[], Scores]]
    exact: Callable[[Pair], Callable[[], Scores]]
    missing: str | None = None


def _ours(pair: Pair) -> Callable[[], Scores]:
    def run() -> Scores:
        scores = surface_scores(pair.prediction, pair.truth, pair.spacing)
        return {
            "HD": scores["hd_mm"],
            "HD95": scores["hd95_mm"],
            "HD95 directed": scores["hd95_directed_mm"],
            "HD95 pooled": scores["hd95_pooled_mm"],
            "ASSD": scores["assd_mm"],
            "Dice": dice(pair.prediction, pair.truth),
        }

    return run


def _monai(pair: Pair, *, every: bool) -> Callable[[], Scores]:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    masks = [torch.from_numpy(mask)[None, None] for mask in (pair.prediction, pair.truth)]
    options = {"include_background": True, "spacing": pair.spacing}

    def run() -> Scores:
        found = {"HD95": float(compute_hausdorff_distance(*masks, percentile=95, **options))}
        if every:
            found["HD"] = float(compute_hausdorff_distance(*masks, **options))
            found["ASSD"] = float(
                compute_average_surface_distance(*masks, symmetric=True, **options)
            )
        return found

    return run


def _surface_distance(pair: Pair, *, every: bool) -> Callable[[], Scores]:
    import surface_distance as library

    def run() -> Scores:
        distances = library.compute_surface_distances(pair.truth, pair.prediction, pair.spacing)
        found = {"HD95": library.compute_robust_hausdorff(distances, 95)}
        if every:
            found["HD"] = library.compute_robust_hausdorff(distances, 100)
            # It returns the means of the two directions; they are averaged with areas as weights.
            means = library.compute_average_surface_distance(distances)
            areas = [distances[f"surfel_areas_{mask}"].sum() for mask in ("gt", "pred")]
            found["ASSD"] = float(np.average(means, weights=areas))
        return found

    return run


def _medpy(pair: Pair, *, every: bool) -> Callable[[], Scores]:
    from medpy.metric import binary

    def run() -> Scores:
        found = {"HD95": binary.hd95(pair.prediction, pair.truth, pair.spacing)}
        if every:
            found["HD"] = binary.hd(pair.prediction, pair.truth, pair.spacing)
            found["ASSD"] = binary.assd(pair.prediction, pair.truth, pair.spacing)
        return found

    return run


def _simpleitk(pair: Pair) -> Callable[[], Scores]:
    import SimpleITK as sitk  # noqa: N813 -- the name its users know it by

    images = [
        sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (pair.prediction, pair.truth)
    ]
    for image in images:
        image.SetSpacing(pair.spacing[::-1])

    def run() -> Scores:
        measured = sitk.HausdorffDistanceImageFilter()
        measured.SetNumberOfThreads(1)
        measured.Execute(*images)
        return {"HD": measured.GetHausdorffDistance()}

    return run


def scorers() -> list[Scorer]:
    """Return the contestants; the first two are famseg's and MONAI's."""
    warnings.simplefilter("ignore")  # warnings of other libraries
    return [
        Scorer(OURS, "famseg", _ours, _ours),
        Scorer(MONAI, "monai", partial(_monai, every=False), partial(_monai, every=True)),
        Scorer(
            "surface-distance, HD95",
            "surface-distance-based-measures",
            partial(_surface_distance, every=False),
            partial(_surface_distance, every=True),
            missing("surface_distance", "--no-deps surface-distance-based-measures"),
        ),
        Scorer(
            "medpy, HD95",
            "medpy",
            partial(_medpy, every=False),
            partial(_medpy, every=True),
            missing("medpy", "--no-deps medpy"),
        ),
        Scorer("SimpleITK, HD alone", "SimpleITK", _simpleitk, _simpleitk),
    ]


def scorer(name: str) -> Scorer:
    """Return a contestant by its name."""
    return next(one for one in scorers() if one.name == name)
