from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
from scipy.spatial.distance import cdist
from skimage.measure import marching_cubes, mesh_surface_area

from famseg.metrics import _distances
from famseg.metrics._surface import (
    border,
    bounding_box,
    distances_at,
    distances_mm_and_voxels,
    elements,
    surface_distances,
)

UNIT = (1.0, 1.0, 1.0)
FLAT = (0.5, 1.3, 4.0)


def test_the_area_of_a_box_has_a_closed_form(box):
    n, s = np.array((6, 5, 4)), np.array(FLAT)
    faces = 2 * sum((n[i] - 1) * (n[j] - 1) * s[i] * s[j] for i, j in ((0, 1), (0, 2), (1, 2)))
    bevels = sum(
        4 * (n[i] - 1) * s[i] * np.hypot(s[(i + 1) % 3], s[(i + 2) % 3]) / 2 for i in range(3)
    )
    corner = 0.125 * np.linalg.norm([s[1] * s[2], s[0] * s[2], s[0] * s[1]])
    assert elements(box, FLAT)[1].sum() == pytest.approx(faces + bevels + 8 * corner)


@pytest.mark.parametrize(("spacing", "factor"), [(UNIT, 1.07), ((0.5, 0.5, 3.0), 1.23)])
def test_a_sphere_comes_out_too_large_by_the_documented_factor(ball, spacing, factor):
    area = elements(ball(14.0, 64, spacing), spacing)[1].sum()
    assert area / (4 * np.pi * 14.0**2) == pytest.approx(factor, abs=0.02)


def test_areas_are_near_those_of_a_mesh(ball):
    mask = ball(12.0)
    vertices, faces, _, _ = marching_cubes(mask.astype(np.float32), 0.5)
    area = elements(mask, UNIT)[1].sum()
    assert area == pytest.approx(mesh_surface_area(vertices, faces), rel=0.03)


def test_mask_and_complement_have_one_area(blob):
    mask = np.pad(blob(0), 2)
    complement = ~mask
    shell = elements(np.ones_like(mask), UNIT)[1].sum()  # the complement ends at the image's border
    assert elements(complement, UNIT)[1].sum() - shell == pytest.approx(
        elements(mask, UNIT)[1].sum()
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_border_is_what_erosion_takes_away(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(tuple(rng.integers(1, 9, 3))) < 0.7
    assert np.array_equal(border(mask), mask & ~ndi.binary_erosion(mask))


@pytest.mark.parametrize("spacing", [UNIT, FLAT])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_distances_equal_brute_force(spacing, share):
    rng = np.random.default_rng(3)
    features = rng.random((7, 9, 8)) < share
    queries = rng.random(features.shape) < 0.5
    points = [np.argwhere(mask) * spacing for mask in (queries, features)]
    wanted = cdist(*points).min(axis=1)
    assert distances_at(features, queries, spacing) == pytest.approx(wanted, rel=2e-6, abs=1e-12)


def test_distances_where_everything_is_a_feature_or_nothing_is_asked():
    full = np.ones((3, 4, 5), dtype=bool)
    assert np.array_equal(distances_at(full, full, UNIT), np.zeros(60))
    assert distances_at(full, ~full, UNIT).size == 0


def test_masks_at_the_border_of_the_image_have_a_closed_surface():
    full = np.ones((4, 4, 4), dtype=bool)
    half = full.copy()
    half[2:] = False
    found = surface_distances(half, full, (2.0, 1.0, 1.0))
    assert found.element_to_truth.max() == 2.0  # the inner points of the middle, from the sides
    assert found.element_to_prediction.max() == 4.0  # from the far face
    assert found.border_to_prediction.max() == 4.0


def test_areas_belong_to_their_distances(box):
    longer = box.copy()
    longer[10:12, 4:9, 4:8] = True
    found = surface_distances(longer, box, FLAT)
    profile = found.element_to_truth
    assert profile.weights.sum() == pytest.approx(elements(longer, FLAT)[1].sum())
    far = profile.values > 0.99  # the end face, two voxels of 0.5 away
    sx, sy, sz = FLAT
    face = 4 * 3 * sy * sz
    bevels = sy * 4 * np.hypot(sx, sz) + sz * 3 * np.hypot(sx, sy)
    corners = 0.5 * np.linalg.norm([sy * sz, sx * sz, sx * sy])
    assert profile.weights[far].sum() == pytest.approx(face + bevels + corners)


def test_the_box_is_the_smallest(box):
    assert bounding_box(box) == (slice(4, 10), slice(4, 9), slice(4, 8))


@pytest.mark.parametrize("spacing", [UNIT, (0.8, 0.8, 0.8), FLAT])
@pytest.mark.parametrize("seeds", [(0, 1), (2, 3)])
def test_all_four_profiles_equal_brute_force(blob, spacing, seeds, monkeypatch):
    monkeypatch.setattr(_distances, "_SLAB", 700)  # several slabs even here
    prediction, truth = blob(seeds[0]), blob(seeds[1])
    found = surface_distances(prediction, truth, spacing)
    borders = [np.argwhere(border(mask)) for mask in (prediction, truth)]
    pieces = [elements(mask, spacing) for mask in (prediction, truth)]
    corners = [np.argwhere(where) for where, _ in pieces]
    for profile, (points, others), areas in (
        (found.border_to_truth, borders, np.ones(len(borders[0]))),
        (found.border_to_prediction, borders[::-1], np.ones(len(borders[1]))),
        (found.element_to_truth, corners, pieces[0][1]),
        (found.element_to_prediction, corners[::-1], pieces[1][1]),
    ):
        single = cdist(points * spacing, others * spacing).min(axis=1)
        assert profile.weights.sum() == pytest.approx(areas.sum())
        assert profile.max() == pytest.approx(single.max(), rel=1e-6)
        assert profile.mean() == pytest.approx((single * areas).sum() / areas.sum(), rel=1e-6)
        for tolerance in np.unique(single)[:20] + 1e-4:
            share = areas[single <= tolerance].sum() / areas.sum()
            assert profile.share_within(tolerance) == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), FLAT])
def test_mm_and_voxels_are_what_each_is_alone(blob, spacing):
    together = distances_mm_and_voxels(blob(4), blob(5), spacing)
    for found, unit in zip(together, (spacing, UNIT), strict=True):
        alone = surface_distances(blob(4), blob(5), unit)
        for name in ("border_to_truth", "element_to_truth", "element_to_prediction"):
            one, other = getattr(found, name), getattr(alone, name)
            assert one.values == pytest.approx(other.values)
            assert one.weights == pytest.approx(other.weights)


def test_masks_are_left_as_they_were(blob):
    prediction, truth = blob(6), blob(7)
    copies = prediction.copy(), truth.copy()
    surface_distances(prediction, truth, UNIT)
    assert np.array_equal(prediction, copies[0])
    assert np.array_equal(truth, copies[1])
