"""What is left out because it cannot be reached changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shells
from scipy.spatial.transform import Rotation

from famseg.reconstruction._chart import Chart, Layer
from famseg.reconstruction._surfaces import Surfaces, between, inside

TURNED = Rotation.from_euler("xyz", [20, -30, 12], degrees=True).as_matrix()


def chart_of(spacing, turn, deg=20.0):
    shape, affine = shells.grid(spacing, turn)
    where = shells.points(shape, affine)
    region = shells.shell(where) & shells.hole(where, (0.9, 0.2, 0.6), deg)
    chart = Chart.around(region, affine, np.zeros(3), margin_mm=40.0, pixel_mm=2.0)
    return chart, region


@pytest.mark.parametrize("turn", [None, TURNED], ids=["straight", "oblique"])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 4.0), (3.0, 3.0, 3.0)])
@pytest.mark.parametrize("deg", [6.0, 25.0])
def test_a_shadow_is_that_of_all_rays(spacing, turn, deg):
    chart, region = chart_of(spacing, turn, deg)
    x, y = chart.coordinates()
    disc = x**2 + y**2 < 3.8
    rays = [(above >= 0).any(axis=1) for above in chart._samples([Layer.of(region)], disc)]
    shadow = chart.shadow(region, disc)
    assert np.array_equal(shadow[disc], np.concatenate(rays))
    assert shadow.any()
    assert chart._near(region).sum() < 0.7 * disc.sum()
    assert not chart.shadow(np.zeros_like(region), disc).any()


def test_a_region_at_the_origin_throws_its_shadow_everywhere():
    chart, region = chart_of((2.0, 2.0, 2.0), None)
    middle = np.linalg.inv(chart.affine) @ [*chart.origin, 1.0]
    index = tuple(np.rint(middle[:3]).astype(int))
    chart = replace(chart, origin=(chart.affine @ [*index, 1.0])[:3])
    region[index] = True
    x, y = chart.coordinates()
    disc = x**2 + y**2 < 3.8
    rays = [(above >= 0).any(axis=1) for above in chart._samples([Layer.of(region)], disc)]
    assert np.array_equal(chart.shadow(region, disc)[disc], np.concatenate(rays))


@pytest.mark.parametrize("turn", [None, TURNED], ids=["straight", "oblique"])
def test_between_two_surfaces_are_the_voxels_that_lie_between_them_one_by_one(turn):
    chart, region = chart_of((3.0, 2.5, 4.0), turn)
    x, y = chart.coordinates()
    pixels = x**2 + y**2 < (30 / chart.radius_mm) ** 2
    waves = 3 * np.sin(30 * x)
    surfaces = Surfaces(70 + waves, 78 + waves, pixels)
    box, mask = between(chart, surfaces, pixels, region.shape, margin_mm=1.0)
    places = np.argwhere(np.ones(region.shape, dtype=bool))
    each = inside(chart, surfaces, pixels, places, margin_mm=1.0).reshape(region.shape)
    assert each.any()
    assert np.array_equal(mask, each[box])
    assert mask.sum() == each.sum()
