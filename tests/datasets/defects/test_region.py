"""Openings by region: position, size, and the remaining bone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from famseg.datasets import (
    WHERES,
    RegionDefect,
    SkullBreakDefect,
    inject,
    opening_area_cm2,
    phantom,
)
from famseg.datasets.defects._opening import _take_chips, open_region
from famseg.messages import InputError
from famseg.volumes import read_volume

SPACING = (3.5, 3.5, 3.5)
WHOLE = np.ones((3, 3, 3))


def cut(skull, defect, seed):
    holed, region = inject(skull, defect, SPACING, np.random.default_rng(seed))
    return holed, region, skull & region


def pieces(mask):
    return ndimage.label(mask, WHOLE)[1]


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("seed", range(4))
def test_the_rest_is_one_piece_and_the_implant_as_many_as_the_class_says(skull, where, seed):
    holed, _, implant = cut(skull, RegionDefect(where), seed)
    assert pieces(holed) == 1
    assert pieces(implant) in ((1, 2) if where == "bilateral" else (1,))
    assert implant.any()
    assert not (holed & implant).any()
    assert ((holed | implant) == skull).all()


def test_bilateral_openings_are_one_across_or_two(skull):
    found = {pieces(cut(skull, RegionDefect("bilateral"), seed)[2]) for seed in range(10)}
    assert found == {1, 2}


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("area", [30.0, 70.0])
def test_the_area_is_the_one_asked_for(skull, where, area):
    for seed in range(3):
        _, region, _ = cut(skull, RegionDefect(where, area_cm2=(area, area)), seed)
        assert opening_area_cm2(skull, region, SPACING) == pytest.approx(area, rel=0.1)


def test_the_outside_is_connected_to_the_opening(skull):
    """No cavity remains: air in place of the removed bone reaches the border of the volume."""
    for seed, where in enumerate(WHERES):
        holed, region, _ = cut(skull, RegionDefect(where), seed)
        outside, _ = ndimage.label(np.pad(holed == 0, 1, constant_values=True))
        assert (outside[1:-1, 1:-1, 1:-1][region] == outside[0, 0, 0]).all()


def middle(skull, where, seed):
    _, _, implant = cut(skull, RegionDefect(where, area_cm2=(30, 30)), seed)
    head = np.array(ndimage.center_of_mass(skull))
    return (np.array(ndimage.center_of_mass(implant)) - head) * SPACING


def test_regions_lie_where_their_names_say(skull):
    for seed in range(4):
        _, front, _ = middle(skull, "frontoorbital", seed)
        side, _, _ = middle(skull, "parietotemporal", seed)
        assert front > 40
        assert abs(side) > 40
    sides = {middle(skull, "parietotemporal", seed)[0] > 0 for seed in range(8)}
    assert sides == {True, False}


def test_a_hole_is_a_function_of_its_generator(skull):
    one, other, another = (cut(skull, RegionDefect("random_1"), seed)[1] for seed in (3, 3, 4))
    assert (one == other).all()
    assert (one != another).any()


def test_a_rough_edge_is_longer(skull):
    def edge(roughness):
        defect = RegionDefect("random_1", area_cm2=(60, 60), roughness_mm=roughness)
        fine = phantom(0, 0, 112)
        _, region = inject(fine, defect, (2.0,) * 3, np.random.default_rng(0))
        implant = fine & region
        near = ndimage.binary_dilation(implant, WHOLE)
        return int((near & (fine & ~region)).sum())

    assert edge(4.0) > 1.05 * edge(0.0)


def test_the_cavity_is_connected_to_the_outside(skull):
    """Above the orbits and the foramen magnum, where a complete skull is closed."""

    def is_open(mask):
        floor = int(0.45 * mask.shape[2])
        free, _ = ndimage.label(mask[:, :, floor:] == 0)
        return free[0, 0, -1] == free[mask.shape[0] // 2, mask.shape[1] // 2, 2]

    assert not is_open(skull)
    for where in WHERES:
        for seed in range(4):
            assert is_open(cut(skull, RegionDefect(where), seed)[0]), (where, seed)


@pytest.mark.parametrize("degrees", [20, 35, 60])
@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (0.6, 0.6, 0.53), (0.0, 1.0, 0.0)])
def test_the_area_of_a_cap_of_a_sphere(degrees, axis):
    edge = (np.arange(96) - 47.5) * 2.0
    x, y, z = np.meshgrid(edge, edge, edge, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    shell = ((radius < 80) & (radius > 72)).astype(np.uint8)
    along = (np.array(axis) / np.linalg.norm(axis)).tolist()
    limit = np.cos(np.deg2rad(degrees))
    cap = along[0] * x + along[1] * y + along[2] * z > radius * limit
    truth = 2 * np.pi * 8.0**2 * (1 - limit)
    assert opening_area_cm2(shell, cap, (2.0,) * 3) == pytest.approx(truth, rel=0.04)


def test_no_bone_has_no_area(skull):
    assert opening_area_cm2(skull, skull == 0, SPACING) == 0
    with pytest.raises(InputError, match=r"the skull has the shape \(64, 64, 64\), the region"):
        opening_area_cm2(skull, skull[1:] > 0, SPACING)


def test_anisotropic_voxels_make_the_same_opening():
    fine = phantom(0, 0, 96)
    spacing = 224 / 96
    coarse, edges = fine[:, :, ::2].copy(), (spacing, spacing, 2 * spacing)
    defect = RegionDefect("parietotemporal", area_cm2=(60, 60))
    _, region = inject(coarse, defect, edges, np.random.default_rng(0))
    _, other = inject(fine, defect, (spacing,) * 3, np.random.default_rng(0))
    assert opening_area_cm2(coarse, region, edges) == pytest.approx(60, rel=0.1)
    assert np.prod(edges) * region.sum() == pytest.approx(spacing**3 * other.sum(), rel=0.1)


@pytest.mark.parametrize(("rest", "taken"), [(0, True), (2, True), (4, False)])
def test_bone_without_hold_goes_to_the_implant_and_much_of_it_is_no_opening(rest, taken):
    """A rod that is cut through: the part behind the cut is detached."""
    rod = np.zeros((5, 5, 60), np.uint8)
    rod[2, 2, 5 : 50 + rest] = 1
    rod[0, 0, :3] = 1  # a piece that was already detached
    region = np.zeros(rod.shape, bool)
    region[:, :, 40:50] = True
    assert _take_chips(rod, region) is taken
    holed = rod & ~region
    assert pieces(holed) == (2 if taken else 3)
    assert (rod & region).sum() == 10 + (rest if taken else 0)
    assert holed[0, 0, 0] == 1


@pytest.mark.slow
def test_real_heads_get_openings_of_every_class(real_data):
    files = sorted((real_data / "skulls" / "heads128").glob("*.nii.gz"))
    assert len(files) == 10
    for seed, file in enumerate(files):
        volume = read_volume(file)
        mask = (volume.array != 0).astype(np.uint8)
        before = pieces(mask)
        for where in WHERES[:4]:
            rng = np.random.default_rng(seed)
            opening = open_region(mask, RegionDefect(where), np.array(volume.spacing_mm), rng)
            assert opening.area_cm2 == pytest.approx(opening.target_cm2, rel=0.1)
            assert pieces(mask & opening.region) <= (2 if where == "bilateral" else 1)
            assert pieces(mask & ~opening.region) == before, (file.name, where)


@pytest.mark.slow
def test_heads_without_a_top_have_no_opening_across_it(real_data):
    file = sorted((real_data / "skulls" / "truncated64").glob("*.nii.gz"))[0]
    mask = (read_volume(file).array != 0).astype(np.uint8)
    for seed in range(4):  # its bilateral openings are two, in the side walls
        _, _, implant = cut(mask, RegionDefect("bilateral"), seed)
        assert pieces(implant) == 2


def test_skullbreak_draws_every_class():
    defect = SkullBreakDefect()
    rng = np.random.default_rng(0)
    orders = [[one.where for one in defect.draw_classes(rng)] for _ in range(60)]
    assert all(set(order) == set(WHERES) for order in orders)
    assert {order[0] for order in orders} == set(WHERES)


def test_skullbreak_takes_another_class_where_one_has_no_place(skull):
    low = skull.copy()
    low[:, :, 40:] = 0
    only = SkullBreakDefect(classes=("frontoorbital",), area_cm2=(70, 70))
    with pytest.raises(InputError, match="no frontoorbital defect of 70 to 70 cm2 in 32 draws"):
        cut(low, only, 0)
    both = SkullBreakDefect(classes=("frontoorbital", "parietotemporal"), area_cm2=(20, 70))
    for seed in range(4):
        assert cut(low, both, seed)[2].any()


def test_lognormal_areas_stay_in_the_range_and_lean_to_its_lower_end():
    rng = np.random.default_rng(0)
    defect = RegionDefect("random_1", area_cm2=(10, 90), spread="lognormal")
    areas = [defect.draw_area_cm2(rng) for _ in range(400)]
    assert min(areas) >= 10
    assert max(areas) <= 90
    assert np.median(areas) == pytest.approx(30, rel=0.1)


def test_a_vault_that_is_cut_off_is_refused(skull):
    low = skull.copy()
    low[:, :, 26:] = 0
    with pytest.raises(
        InputError,
        match=r"no bilateral defect of 100 to 100 cm2 in 32 draws: the vault has no complete wall "
        r"there \(is it cut off by the scan, or does it have a defect\?\); leave the skull out",
    ):
        cut(low, RegionDefect("bilateral", area_cm2=(100, 100)), 0)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"area_cm2": (30.0, 10.0)}, "area_cm2"),
        ({"area_cm2": (0.0, 10.0)}, "area_cm2"),
        ({"roughness_mm": 9.0}, "roughness_mm"),
    ],
)
def test_what_is_out_of_range_is_named(options, fault):
    with pytest.raises(InputError, match=f"defect skullbreak: .*{fault}"):
        SkullBreakDefect(**options)
    with pytest.raises(InputError, match=f"defect region random_1: .*{fault}"):
        RegionDefect("random_1", **options)


def test_unknown_classes_are_named():
    with pytest.raises(InputError, match="defect region: 'top' is none of bilateral, "):
        RegionDefect("top")
    with pytest.raises(InputError, match=r"defect skullbreak: classes \['top'\] must be among "):
        SkullBreakDefect(classes=("top",))
