"""Offsets of surface elements, and the errors of each definition on which the page is based."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def points(monkeypatch):
    """Import the benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("surface_points")


def test_flat_pieces_lie_on_the_grid_and_a_cut_corner_towards_its_voxel(points):
    offsets = points._offsets((1.0, 1.0, 3.0))
    assert offsets[0b00001111] == pytest.approx(0)
    assert offsets[0b00000001] == pytest.approx(np.array([-1, -1, -3]) / 3)
    assert offsets == pytest.approx(offsets[::-1])  # mask and complement


def test_all_definitions_agree_on_faces_along_the_grid(points):
    box = [one for one in points.known(quick=True) if one.name.startswith("box of 36 mm moved")]
    off = points.errors(box)
    assert {name: one[0]["HD95"] for name, one in off.items()} == pytest.approx(
        dict.fromkeys(points.DEFINITIONS, 0.0)
    )
    assert "1 of 1" in points.summary(off)


def test_centroids_are_nearer_in_the_mean_on_spheres(points):
    sphere = points.known(quick=True)[:1]
    off = points.errors(sphere)
    grid, centroids = (abs(off[name][0]["ASSD"]) for name in list(points.DEFINITIONS)[2:4])
    assert centroids < 0.1 < 0.4 < grid
