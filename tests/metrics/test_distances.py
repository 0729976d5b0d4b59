from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from scipy.spatial.distance import cdist

from famseg.metrics import _distances
from famseg.metrics._distances import UNIT, Field, fill_gaps, slabs

FLAT = (0.5, 1.3, 4.0)
LONG = (3.0, 0.45, 0.45)


def gaps_of(features):
    gaps = np.where(features, np.uint8(0), np.uint8(255))
    fill_gaps(gaps)
    return gaps


def distances(features, queries, spacing):
    """Distances from slabs, in C order."""
    field = Field(gaps_of(features), spacing)
    found = [
        field.squares(slab, np.flatnonzero(queries[slab]))
        for slab in slabs(features.shape)
        if queries[slab].any()
    ]
    return np.sqrt(np.concatenate([part.astype(float) for part in found]))


def brute(features, queries, spacing):
    return cdist(*(np.argwhere(mask) * spacing for mask in (queries, features))).min(axis=1)


@pytest.fixture
def small_slabs(monkeypatch):
    monkeypatch.setattr(_distances, "_SLAB", 200)


def test_slabs_cover_a_grid_once(small_slabs):
    planes = [plane for slab in slabs((11, 9, 8)) for plane in range(slab.start, slab.stop)]
    assert planes == list(range(11))
    assert next(slabs((11, 9, 8))) == slice(0, 2)
    assert next(slabs((11, 90, 80))) == slice(0, 1)  # a plane at least


def test_gaps_count_steps_along_the_first_axis():
    features = np.zeros((7, 1, 2), dtype=bool)
    features[[1, 5], 0, 0] = True
    assert gaps_of(features)[:, 0, 0].tolist() == [1, 0, 1, 2, 1, 0, 1]
    assert (gaps_of(features)[:, 0, 1] == 255).all()


def test_gaps_do_not_run_over():
    features = np.zeros((600, 1, 1), dtype=bool)
    features[0] = True
    gaps = gaps_of(features)[:, 0, 0].astype(int)
    assert np.array_equal(gaps, np.minimum(np.arange(600), 255))


@pytest.mark.parametrize("spacing", [UNIT, FLAT, LONG])
@pytest.mark.parametrize("share", [0.002, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("asked", [0.02, 1.0])
def test_distances_equal_brute_force(small_slabs, spacing, share, asked):
    rng = np.random.default_rng(3)
    features = rng.random((13, 9, 17)) < share
    features[4, 7, 16] = True
    queries = rng.random(features.shape) < asked
    wanted = brute(features, queries, spacing)
    assert distances(features, queries, spacing) == pytest.approx(wanted, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("spacing", [UNIT, (1.0, 0.45, 0.45)])
@pytest.mark.parametrize("away", [4, 5, 6, 10, 11, 12, 20, 21, 40, 41, 80, 81, 95])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_reach_is_exact_up_to_its_end_and_beyond(small_slabs, spacing, away, axis):
    features = np.zeros(np.roll((100, 4, 3), axis), dtype=bool)
    queries = features.copy()
    features[0, 0, 0] = True
    place = np.roll((away, 2, 1), axis)
    queries[tuple(place)] = True
    wanted = np.linalg.norm(place * spacing)
    assert distances(features, queries, spacing) == pytest.approx([wanted], rel=1e-6)


@pytest.mark.parametrize("spacing", [UNIT, LONG])
def test_neighbors_of_another_row_are_not_near(small_slabs, spacing):
    features = np.zeros((3, 30, 12), dtype=bool)
    features[1, 0, 0] = features[1, 29, 11] = True
    queries = ~features
    wanted = distance_transform_edt(queries, sampling=spacing)[queries]
    assert distances(features, queries, spacing) == pytest.approx(wanted, rel=1e-6)


def test_the_reach_grows_and_shrinks_with_what_is_asked(monkeypatch):
    monkeypatch.setattr(_distances, "_SLAB", 1)
    features = np.zeros((40, 1, 70), dtype=bool)
    features[:, 0, 0] = True
    field = Field(gaps_of(features), UNIT)
    far = {3: 3, 5: 30, 7: 30, 9: 2, 11: 2, 13: 2, 15: 2, 17: 7}
    found = {
        plane: float(field.squares(slice(plane, plane + 1), np.array([place]))[0])
        for plane, place in far.items()
    }
    assert found == {plane: place**2 for plane, place in far.items()}
    assert field._map is None


def test_the_map_of_the_whole_grid_is_made_once_and_serves_the_rest(monkeypatch):
    monkeypatch.setattr(_distances, "_SLAB", 1)
    calls = []
    made = _distances.Map
    monkeypatch.setattr(_distances, "Map", lambda *args: calls.append(1) or made(*args))
    features = np.zeros((3, 2, 120), dtype=bool)
    features[1, 1, 2] = True
    queries = np.ones_like(features)
    found = distances(features, queries, UNIT)
    assert found == pytest.approx(brute(features, queries, UNIT), rel=1e-6)
    assert calls == [1]
