from __future__ import annotations

import numpy as np
import pytest

from famseg.metrics import _profile
from famseg.metrics._profile import Profile, Tally

ONCE = np.repeat([0.0, 1.0, 0.0], (1, 1, 254))


def tallied(squares, labels, weights, parts=1) -> Profile:
    tally = Tally(weights)
    for chosen in np.array_split(np.arange(len(squares)), parts):
        tally.add(squares[chosen], labels[chosen])
    return tally.profile()


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 50, 900).astype(np.uint16)
    labels = rng.integers(1, 256, 900).astype(np.uint8)
    return squares, labels, rng.random(256)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("parts", [1, 7])
def test_a_tally_sums_the_weights_of_each_distance(points, kind, parts):
    squares, labels, weights = points
    found = tallied(squares.astype(kind), labels, weights, parts)
    distinct = np.unique(squares)
    assert found.values == pytest.approx(np.sqrt(distinct.astype(float)), rel=1e-15)
    wanted = [weights[labels[squares == square]].sum() for square in distinct]
    assert found.weights == pytest.approx(wanted, rel=1e-12)


def test_fractions_keep_their_order():
    squares = np.array([2.5, 0.25, 1e6, 0.0, 0.25], dtype=np.float32)
    found = tallied(squares, np.ones(5, dtype=np.uint8), ONCE)
    assert found.values.tolist() == [0.0, 0.5, pytest.approx(np.sqrt(2.5)), 1000.0]
    assert found.weights.tolist() == [1.0, 2.0, 1.0, 1.0]


def test_joining_on_the_way_changes_nothing(points, monkeypatch):
    squares, labels, weights = points
    whole = tallied(squares, labels, weights)
    monkeypatch.setattr(_profile, "_MERGE", 20)
    found = tallied(squares, labels, weights, parts=30)
    assert np.array_equal(found.values, whole.values)
    assert found.weights == pytest.approx(whole.weights, rel=1e-12)


@pytest.mark.parametrize("percent", [0, 5, 37.3, 50, 95, 99.9, 100])
@pytest.mark.parametrize("count", [1, 2, 20, 21, 900])
def test_percentiles_by_rank_are_those_of_numpy(points, percent, count):
    squares, labels, _ = points
    found = tallied(squares[:count], np.minimum(labels[:count], 1), ONCE)
    wanted = np.percentile(np.sqrt(squares[:count].astype(float)), percent)
    assert found.percentile_by_rank(percent) == pytest.approx(wanted, rel=1e-12)


def test_a_percentile_by_weight_counts_a_heavy_point_as_many():
    profile = Profile(np.array([1.0, 2.0, 3.0]), np.array([0.95, 0.04, 0.01]))
    assert [profile.percentile(p) for p in (50, 95, 96, 99, 99.5)] == [1.0, 1.0, 2.0, 2.0, 3.0]


def test_tenths_that_do_not_sum_exactly_do_not_skip_a_distance():
    profile = Profile(np.arange(10.0), np.full(10, 0.1))
    assert profile.percentile(30) == 2.0  # 0.1 + 0.1 + 0.1 > 0.3 in floating point


def test_what_equals_the_tolerance_is_within_it():
    squares = np.array([3 * 0.45**2, 4.0], dtype=np.float32)
    profile = tallied(squares, np.ones(2, dtype=np.uint8), ONCE)
    assert profile.share_within(np.sqrt(3) * 0.45) == 0.5
    assert profile.share_within(np.sqrt(3) * 0.45 - 1e-3) == 0.0
    assert profile.share_within(2.0) == 1.0


def test_two_profiles_pool_as_their_points(points):
    squares, labels, weights = points
    parts = [tallied(squares[cut], labels[cut], weights) for cut in (slice(300), slice(300, 900))]
    pooled, whole = parts[0].pooled(parts[1]), tallied(squares, labels, weights)
    assert np.array_equal(pooled.values, whole.values)
    assert pooled.weights == pytest.approx(whole.weights, rel=1e-12)
    assert pooled.mean() == pytest.approx(whole.mean(), rel=1e-12)


def test_another_unit_scales_lengths_and_weights():
    profile = Profile(np.array([1.0, 2.0]), np.array([3.0, 1.0])).scaled(0.5, 0.25)
    assert (profile.max(), profile.mean(), profile.weights.tolist()) == (1.0, 0.625, [0.75, 0.25])
