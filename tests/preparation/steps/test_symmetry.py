"""Heads are put upright by their plane of symmetry and the base of the skull."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from famseg.preparation import Scan, Settings, prepare_scan
from famseg.preparation.steps._align import angle_deg
from famseg.preparation.steps._grid import moved_points, surface_points
from famseg.preparation.steps._symmetry import Upright, upright
from famseg.volumes import Volume

SIDE_MM = 7.0


def turned(angles_deg: tuple[float, float, float]) -> NDArray[np.float64]:
    """A motion that nods, leans and turns, about a place far from the head."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    motion[:3, 3] = (40.0, -30.0, 200.0)
    return motion


@pytest.fixture(scope="module")
def surface(skull: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return surface_points(skull > 0, affine)


@pytest.fixture(scope="module")
def straight(surface: NDArray[np.float64]) -> Upright:
    return upright(surface)


@pytest.mark.parametrize("angles_deg", [(15.0, 0.0, 0.0), (-12.0, 9.0, -14.0)])
def test_a_turned_head_comes_to_stand_as_before(surface, straight, angles_deg) -> None:
    motion = turned(angles_deg)
    found = upright(moved_points(surface, motion))
    assert angle_deg(motion) > 14
    left = np.linalg.inv(found.to_source) @ motion @ straight.to_source
    assert angle_deg(left) < 2.5
    assert found.to_source[:3, :3] @ found.to_source[:3, :3].T == pytest.approx(np.eye(3))
    assert np.linalg.det(found.to_source[:3, :3]) == pytest.approx(1)


def test_asymmetry_is_told_in_mm(surface, straight) -> None:
    lump = surface[:, 0] > surface[:, 0].max() - 20
    grown = surface + np.where(lump[:, None], [15.0, 0.0, 0.0], 0.0)
    assert 0 < straight.asymmetry_mm < SIDE_MM
    assert straight.asymmetry_mm + 0.5 < upright(grown).asymmetry_mm < 10


def test_a_head_without_symmetry_is_flagged(skull, affine) -> None:
    half = skull.copy()
    half[18:, :, 14:] = 0
    strict = Settings(size=None, spacing_mm=SIDE_MM, align="symmetry", residual_limit_mm=4.0)
    quality = prepare_scan(Scan(Volume(half, affine), "mask"), strict).quality
    assert "alignment" in quality.flags
    assert any("its plane of symmetry may be wrong" in text for text in quality.warnings)


def test_a_record_says_how_a_head_was_turned(skull, affine) -> None:
    motion = turned((12.0, 0.0, 8.0))
    scan = Scan(Volume(skull, motion @ affine), "mask")
    as_it_lies, stands = (
        prepare_scan(scan, Settings(size=None, spacing_mm=SIDE_MM, align=align))
        for align in ("none", "symmetry")
    )
    assert as_it_lies.quality.turned_deg is None
    assert as_it_lies.quality.asymmetry_mm is None
    assert stands.quality.turned_deg == pytest.approx(angle_deg(stands.to_source))
    assert 11 < stands.quality.turned_deg < 20
    assert 0 < (stands.quality.asymmetry_mm or 0) < SIDE_MM
    assert angle_deg(as_it_lies.to_source) == pytest.approx(0, abs=1e-3)
    heights = np.flatnonzero(stands.skull.array.any(axis=(0, 1)))
    assert stands.skull.affine[2, 2] * heights[-1] + stands.skull.affine[2, 3] == pytest.approx(0)
