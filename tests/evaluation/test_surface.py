from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import scipy.ndimage as ndi
from scipy.spatial.distance import cdist
from skimage.measure import marching_cubes, mesh_surface_area

from famseg.evaluation._areas import _links, area_table
from famseg.evaluation._surface import (
    border,
    bounding_box,
    distances_at,
    elements,
    surface_distances,
)

UNIT = (1.0, 1.0, 1.0)
FLAT = (0.5, 1.3, 4.0)


def test_areas_that_can_be_checked_by_hand():
    sx, sy, sz = FLAT
    table = area_table(FLAT)
    corner = 0.125 * np.sqrt((sy * sz) ** 2 + (sx * sz) ** 2 + (sx * sy) ** 2)
    assert table[0b00000001] == pytest.approx(corner)  # one voxel: a triangle
    assert table[0b00000011] == pytest.approx(sx * np.hypot(sy, sz) / 2)  # two along x: a bevel
    assert table[0b00001111] == pytest.approx(sx * sy)  # a layer along z
    assert table[0b01010101] == pytest.approx(sy * sz)  # a layer along x
    assert table[0b10000001] == pytest.approx(2 * corner)  # opposite corners: two triangles
    assert table[0] == table[255] == 0


def test_every_code_but_the_empty_ones_has_an_area():
    assert (area_table(FLAT)[1:-1] > 0).all()


def test_every_cut_edge_joins_two_faces():
    for code in range(256):
        cut = {
            (a, b)
            for a in range(8)
            for b in (a | 1, a | 2, a | 4)
            if a != b and (code >> a & 1) != (code >> b & 1)
        }
        links = _links(code)
        assert set(links) == cut
        assert all(len(neighbours) == 2 for neighbours in links.values())


def test_areas_have_the_symmetries_of_the_cube():
    table = area_table(UNIT)
    for code in range(256):
        group = np.array([code >> b & 1 for b in range(8)]).reshape(2, 2, 2)  # axes z, y, x
        for order in permutations(range(3)):
            for flips in np.ndindex(2, 2, 2):
                turned = group.transpose(order)[tuple(slice(None, None, 1 - 2 * f) for f in flips)]
                image = int((turned.ravel() << np.arange(8)).sum())
                assert table[image] == pytest.approx(table[code])


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
