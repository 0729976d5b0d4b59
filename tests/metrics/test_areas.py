from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from famseg.metrics._areas import _links, area_table

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
        assert all(len(neighbors) == 2 for neighbors in links.values())


def test_areas_have_the_symmetries_of_the_cube():
    table = area_table(UNIT)
    for code in range(256):
        group = np.array([code >> b & 1 for b in range(8)]).reshape(2, 2, 2)  # axes z, y, x
        for order in permutations(range(3)):
            for flips in np.ndindex(2, 2, 2):
                turned = group.transpose(order)[tuple(slice(None, None, 1 - 2 * f) for f in flips)]
                image = int((turned.ravel() << np.arange(8)).sum())
                assert table[image] == pytest.approx(table[code])
