from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from famseg.meshes import Gap, surface_mesh, thickness_mm
from famseg.reconstruction import Fitted
from famseg.reconstruction._case import asymmetry, confidence_level, rounded
from famseg.reconstruction._frame import Vault
from famseg.reconstruction._measure import implant_shape, skull_surface

Mask = NDArray[np.bool_]


def shell(bump_mm: float = 0.0, turned: bool = False) -> tuple[Mask, NDArray[np.float64], Vault]:
    """An ellipsoid with a wall of 6 mm, on one side farther out by a bump."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -90
    x, y, z = (np.indices((91, 91, 91)) * 2.0 - 90).astype(float)
    if turned:
        angle = np.deg2rad(8)
        x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    side = np.exp(-((y / 30) ** 2 + ((z - 20) / 30) ** 2)) * (x > 0)
    radius = np.sqrt((x / 60) ** 2 + (y / 75) ** 2 + (z / 65) ** 2) * 65 - bump_mm * side
    return (radius > 62) & (radius < 68), affine, Vault(np.zeros(3), np.array([60.0, 75, 65]))


def test_a_symmetric_shell_has_no_asymmetry_however_it_is_turned() -> None:
    for turned in (False, True):
        found = asymmetry(*shell(turned=turned))
        assert found.mean_mm < 0.7, "a third of a voxel: the surface is that of voxels"
        assert found.p95_mm < 1.8


def test_a_bump_on_one_side_is_seen() -> None:
    even, bumped = asymmetry(*shell()), asymmetry(*shell(bump_mm=10))
    assert bumped.p95_mm > even.p95_mm + 1.5
    assert bumped.mean_mm > even.mean_mm + 0.4


def test_a_plate_is_measured_in_the_units_of_the_names() -> None:
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    plate = surface_mesh(np.ones((80, 60, 10)), affine, smoothing_mm=0.3)
    gap = Gap(np.inf, np.inf, np.inf, np.inf, 0)
    thick = thickness_mm(plate, samples=500)
    found = implant_shape(
        Fitted(np.ones((80, 60, 10), bool), plate, gap, (), np.eye(3)[2], 0, 0, 0, thick, ())
    )
    assert found["volume_ml"] == pytest.approx(40 * 30 * 5 / 1000, rel=0.01)
    assert found["area_cm2"] == pytest.approx((2 * (40 * 30 + 40 * 5 + 30 * 5)) / 100, rel=0.03)
    assert found["thickness_mm"]["median"] == pytest.approx(5, abs=0.1)
    assert found["box_mm"] == pytest.approx([40, 30, 5], abs=0.3)
    assert found["watertight"]


def test_a_fine_skull_is_meshed_on_larger_voxels_at_the_same_place() -> None:
    fine = np.diag([0.3, 0.3, 1.0, 1.0])
    fine[:3, 3] = (5, 6, 7)
    x, y, z = np.indices((160, 160, 48)) * np.array([0.3, 0.3, 1.0])[:, None, None, None]
    ball = np.sqrt((x - 24) ** 2 + (y - 24) ** 2 + (z - 24) ** 2) < 20
    mesh = skull_surface(ball, fine)
    assert mesh.centroid_mm == pytest.approx([29, 30, 31], abs=0.1)
    assert mesh.volume_mm3 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.01)
    assert len(mesh.faces) < 2 * len(surface_mesh(ball, fine).faces) / 3


def test_words_and_numbers_of_a_record() -> None:
    assert [confidence_level(value) for value in (0.0, 0.59, 0.6, 0.75)] == [
        "low",
        "low",
        "fair",
        "high",
    ]
    record = rounded({"a": np.float64(1 / 3), "b": (np.int64(2), float("inf")), "c": "text"}, 2)
    assert record == {"a": 0.33, "b": [2, None], "c": "text"}
