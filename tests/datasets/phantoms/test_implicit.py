from __future__ import annotations

import numpy as np
import pytest

from famseg.datasets.phantoms._implicit import Field, ellipsoid, smooth_max, smooth_min, tapered


def grid(size: int = 21, spacing: float = 1.0) -> tuple[np.ndarray, ...]:
    axis = ((np.arange(size) - size // 2) * spacing).astype(np.float32)
    return tuple(np.meshgrid(axis, axis, axis, indexing="ij"))


def test_a_ball_has_its_exact_distance() -> None:
    x, y, z = grid()
    distance = ellipsoid((1.0, 0.0, 0.0), (5.0, 5.0, 5.0))(x, y, z)
    exact = np.sqrt((x - 1) ** 2 + y**2 + z**2) - 5
    assert distance == pytest.approx(exact, abs=1e-4)


def test_a_capsule_has_its_exact_distance() -> None:
    x, y, z = grid()
    distance = tapered((0.0, 0.0, -4.0), (0.0, 0.0, 4.0), 2.0, 2.0)(x, y, z)
    exact = np.sqrt(x**2 + y**2 + (z - np.clip(z, -4, 4)) ** 2) - 2
    assert distance == pytest.approx(exact, abs=1e-5)


def test_a_tapered_rod_has_both_radii() -> None:
    rod = tapered((0.0, 0.0, 0.0), (10.0, 0.0, 0.0), 1.0, 3.0)
    x = np.array([0.0, 5.0, 10.0], dtype=np.float32)
    assert rod(x, x * 0, x * 0).tolist() == [-1.0, -2.0, -3.0]


def test_a_smooth_union_reaches_beyond_the_crease_and_nowhere_less() -> None:
    a, b = np.float32([1.0, 5.0]), np.float32([1.0, 1.0])
    assert smooth_min(a, b, 2.0).tolist() == [0.5, 1.0]
    assert smooth_min(a, b, 0.0).tolist() == [1.0, 1.0]
    assert smooth_max(a, b, 2.0).tolist() == [1.5, 5.0]


def test_bodies_change_the_field_in_their_own_box_only() -> None:
    x, y, z = grid()
    field = Field(x, y, z, np.full(x.shape, 9.0, dtype=np.float32))
    field.join(ellipsoid((0, 0, 0), (5, 5, 5)), (-5, -5, -5), (5, 5, 5))
    field.carve(ellipsoid((0, 0, 0), (2, 2, 2)), (-2, -2, -2), (2, 2, 2))
    bone = field.distance <= 0
    radius = np.sqrt(x**2 + y**2 + z**2)
    assert np.array_equal(bone, (radius <= 5) & (radius >= 2))
    assert (field.distance[radius > 9] == 9).all()


def test_a_body_outside_the_grid_changes_nothing() -> None:
    x, y, z = grid()
    field = Field(x, y, z, np.full(x.shape, 9.0, dtype=np.float32))
    field.join(ellipsoid((90, 0, 0), (5, 5, 5)), (85, -5, -5), (95, 5, 5))
    assert (field.distance == 9).all()
