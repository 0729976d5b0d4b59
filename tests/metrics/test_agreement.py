"""Agreement with MONAI and with the published definitions of surface-distance and medpy.

The two are implemented here in the simplest way, without their code or a distance transform.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from scipy.spatial.distance import cdist

from famseg.metrics import elements, surface_scores

SPACINGS = [(1.0, 1.0, 1.0), (0.45, 0.45, 1.2)]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*always_return_as_numpy.*:FutureWarning"  # MONAI calls its own deprecated argument
)


@pytest.fixture(params=range(3))
def pair(request, blob):
    return blob(request.param), blob(request.param + 30)


def border_distances(prediction, truth, spacing):
    """Distances between borders as medpy and AutoImplant define them: what an erosion removes."""
    points = [
        np.argwhere(mask & ~ndi.binary_erosion(mask)) * spacing for mask in (prediction, truth)
    ]
    pairs = cdist(*points)
    return pairs.min(axis=1), pairs.min(axis=0)


def element_distances(prediction, truth, spacing):
    """Distances and areas of surface elements between the voxels, as surface-distance has them."""
    points, areas = [], []
    for mask in (prediction, truth):
        where, area = elements(mask, spacing)
        points.append(np.argwhere(where) * spacing)
        areas.append(area)
    pairs = cdist(*points)
    return (pairs.min(axis=1), areas[0]), (pairs.min(axis=0), areas[1])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_hausdorff_distances_are_monai_s(pair, spacing):
    scores = surface_scores(*pair, spacing)
    tensors = [torch.from_numpy(mask)[None, None] for mask in pair]
    for name, percentile in (("hd_mm", None), ("hd95_directed_mm", 95)):
        theirs = compute_hausdorff_distance(
            *tensors, include_background=True, percentile=percentile, spacing=spacing
        )
        assert scores[name] == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_medpy_and_autoimplant_pool_both_directions(pair, spacing):
    there, back = border_distances(*pair, spacing)
    scores = surface_scores(*pair, spacing)
    assert scores["hd_mm"] == pytest.approx(max(there.max(), back.max()), rel=1e-5)
    pooled = np.percentile(np.hstack([there, back]), 95)
    assert scores["hd95_pooled_mm"] == pytest.approx(pooled, rel=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_percentile_and_nsd_are_surface_distance_s(pair, spacing):
    """Sort by distance, add up the areas, take the first distance at which 95 % is reached."""
    tolerance = 1.0
    both = element_distances(*pair, spacing)
    percentiles, near, total = [], 0.0, 0.0
    for distance, area in both:
        order = np.argsort(distance)
        share = np.cumsum(area[order]) / area.sum()
        percentiles.append(distance[order][np.searchsorted(share, 0.95 - 1e-12)])
        near += area[distance <= tolerance + 1e-5].sum()
        total += area.sum()
    scores = surface_scores(*pair, spacing, tolerance_mm=tolerance)
    assert scores["hd95_mm"] == pytest.approx(max(percentiles), rel=1e-5)
    assert scores["nsd"] == pytest.approx(near / total, rel=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_mean_distances_differ_from_monai_s_by_the_weights_alone(pair, spacing):
    """Ours weighs by area; counted alike, the same distances give MONAI's mean over borders."""
    there, back = border_distances(*pair, spacing)
    tensors = [torch.from_numpy(mask)[None, None] for mask in pair]
    theirs = compute_average_surface_distance(
        *tensors, include_background=True, symmetric=True, spacing=spacing
    )
    assert float(theirs) == pytest.approx(np.hstack([there, back]).mean(), rel=1e-5)
    (d, a), (e, b) = element_distances(*pair, spacing)
    ours = (d @ a + e @ b) / (a.sum() + b.sum())
    assert surface_scores(*pair, spacing)["assd_mm"] == pytest.approx(ours, rel=1e-5)


def test_nsd_is_near_monai_s_with_sub_voxels(pair):
    """The same definition with other area tables; theirs, as published, are for cubic voxels."""
    tensors = [torch.from_numpy(mask)[None, None] for mask in pair]
    theirs = compute_surface_dice(
        *tensors, [1.0], include_background=True, spacing=(1.0, 1.0, 1.0), use_subvoxels=True
    )
    ours = surface_scores(*pair, (1.0, 1.0, 1.0), tolerance_mm=1.0)["nsd"]
    assert ours == pytest.approx(float(theirs), abs=0.01)


@pytest.mark.parametrize(("inner", "outer"), [(9.0, 14.0), (12.0, 12.0), (6.0, 17.0)])
def test_concentric_balls_are_as_far_apart_as_their_radii(ball, inner, outer):
    scores = surface_scores(ball(inner), ball(outer), (1.0, 1.0, 1.0))
    for name in ("hd_mm", "hd95_mm", "hd95_directed_mm", "hd95_pooled_mm", "assd_mm"):
        assert scores[name] == pytest.approx(outer - inner, abs=0.75), name


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 2.0), (1.5, 1.0, 0.75)])
def test_long_voxels_measure_in_mm(ball, spacing):
    """Balls in mm, on a grid whose voxels are not cubic, still lie 4 mm apart."""
    masks = [ball(radius, 48, spacing) for radius in (5.0, 9.0)]
    scores = surface_scores(*masks, spacing)
    for name in ("hd_mm", "hd95_mm", "hd95_directed_mm", "hd95_pooled_mm"):
        assert scores[name] == pytest.approx(4.0, abs=max(spacing)), name
    assert scores["assd_mm"] == pytest.approx(4.0, abs=0.5)


def test_a_missing_cap_weighs_as_much_as_its_area(ball):
    """A ball of radius 15 without the cap above height 9: 20 % of its surface is gone."""
    whole = ball(15.0)
    height = np.arange(40) - 19.5
    cut = whole & (height[None, None, :] <= 9)
    scores = surface_scores(cut, whole, (1.0, 1.0, 1.0), tolerance_mm=1.0)
    # The cap is a fifth of the ball; 1 mm below its rim and round it, the surfaces are near.
    assert scores["hd_mm"] == pytest.approx(6.0, abs=0.75)
    cap, disc, ball_area = 2 * np.pi * 15 * 6, np.pi * (15**2 - 9**2), 4 * np.pi * 15**2
    far = (cap + disc) / (ball_area + ball_area - cap + disc)
    assert 1 - far - 0.02 < scores["nsd"] < 1 - far + 0.1


def test_slices_are_scored_as_monai_s_images_of_two_axes(blob):
    pair = [blob(seed, shape=(40, 30, 3))[..., 1] for seed in (1, 31)]
    scores = surface_scores(*pair, (0.5, 1.3), tolerance_mm=1.0)
    tensors = [torch.from_numpy(mask)[None, None] for mask in pair]
    options = {"include_background": True, "spacing": (0.5, 1.3)}
    for name, percentile in (("hd_mm", None), ("hd95_directed_mm", 95)):
        theirs = compute_hausdorff_distance(*tensors, percentile=percentile, **options)
        assert scores[name] == pytest.approx(float(theirs), rel=1e-5)
    share = compute_surface_dice(*tensors, [1.0], use_subvoxels=True, **options)
    assert scores["nsd"] == pytest.approx(float(share), abs=1e-3)
