"""Cut vaults and holes in them, on a shell with known dimensions and on real heads."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from famseg.preparation._settings import Settings
from famseg.preparation.steps._bone import Scale, find_bone
from famseg.preparation.steps._checks import truncated_vault, vault_hole

SPACING = (2.0, 2.0, 2.0)
FOAM, SKIN, AIR = -700, 30, -1000
TISSUE = -500.0


def shell(outer_mm=80.0, thickness_mm=6.0):
    """A hollow ball, 96 voxels of 2 mm, its middle at 96 mm."""
    x = (np.arange(96) + 0.5) * 2 - 96
    distance = np.sqrt(x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None] ** 2)
    return (distance < outer_mm) & (distance > outer_mm - thickness_mm)


def scan_of(bone):
    """The CT of a shell in skin of 4 mm."""
    head = ndimage.binary_fill_holes(ndimage.binary_dilation(bone, iterations=2))
    return np.where(bone, 900, np.where(head, SKIN, AIR)).astype(np.int16)


@pytest.mark.parametrize(
    ("rows_of_air", "cut"),
    [
        pytest.param(2, False, id="whole"),
        pytest.param(-1, True, id="the skin and 2 mm of bone missing"),
        pytest.param(-10, True, id="20 mm missing"),
    ],
)
def test_bone_at_the_upper_end_of_a_ct_is_a_cut_vault(rows_of_air, cut):
    bone = shell()
    end = int(np.flatnonzero(bone.any((0, 1)))[-1]) + 1 + rows_of_air
    assert truncated_vault(bone[..., :end], SPACING, scan_of(bone)[..., :end], TISSUE) is cut


def test_bone_at_the_side_of_a_ct_is_a_cut_vault():
    bone = shell()
    end = int(np.flatnonzero(bone.any((1, 2)))[-1]) - 5
    assert truncated_vault(bone[:end], SPACING, scan_of(bone)[:end], TISSUE)


def test_an_oblique_end_of_a_ct_is_found_within_the_volume():
    """A correction of gantry tilt leaves air above the slope at which the scan ends."""
    bone = shell()
    y, z = np.arange(96)[:, None], np.arange(96)[None]
    outside = z > 80 + 0.3 * (y - 48)
    bone = bone & ~outside
    assert truncated_vault(bone, SPACING, np.where(outside, AIR, scan_of(shell())), TISSUE)


def test_a_few_places_without_skin_are_no_cut():
    """A pin through the skin, or a voxel of air above thin skin: less than 5 cm2."""
    bone, values = shell(), scan_of(shell())
    top = int(np.flatnonzero(bone.any((0, 1)))[-1])
    values[44:54, 44:54, top + 1 :] = AIR
    bone_alone = bone[44:54, 44:54].any(axis=2).sum() * 0.04
    assert 3 < bone_alone < 5
    assert not truncated_vault(bone, SPACING, values, TISSUE)


def test_foam_and_hair_are_no_tissue():
    """They lie at -700 HU: a head on foam would seem to have skin where the scan ends in bone."""
    values = scan_of(shell())
    bone = find_bone(values, "hounsfield", SPACING, Settings())
    assert isinstance(bone.scale, Scale)
    assert FOAM < bone.scale.tissue < SKIN
    assert bone.scale.tissue == TISSUE


@pytest.mark.parametrize("opening", [None, "orbits"])
def test_a_mask_that_ends_in_a_ring_is_a_cut_vault(opening):
    bone = shell()
    whole = bone.copy()
    bone = bone[..., :60].copy()
    if opening:
        bone[44:52, 60:, 50:] = False  # the ring is open at the front
    assert truncated_vault(bone, SPACING)
    assert not truncated_vault(whole, SPACING)


def test_a_hole_at_the_vertex_of_a_mask_is_no_cut():
    bone = shell()
    bone[44:52, 44:52, 60:] = False
    assert not truncated_vault(bone, SPACING)
    hole = vault_hole(bone.astype(np.uint8), SPACING, truncated=False)
    assert hole.where == "at the top"
    assert hole.area_cm2 == pytest.approx(1.6**2, rel=0.25)


def test_a_hole_has_its_area_and_place():
    bone = shell()
    x = (np.arange(96) + 0.5) * 2 - 96
    x, y, z = np.meshgrid(x, x, x, indexing="ij")
    bone[(x + z > 0) & (y**2 + (x - z) ** 2 / 2 < 20**2)] = False  # to the right, 45 degrees up
    hole = vault_hole(bone.astype(np.uint8), SPACING, truncated=False)
    assert hole.where.startswith("right, ")
    assert hole.area_cm2 == pytest.approx(np.pi * 2.0**2, rel=0.15)


def test_a_closed_vault_has_no_hole():
    assert vault_hole(shell().astype(np.uint8), SPACING, truncated=False) is None


def test_the_top_of_a_cut_vault_is_no_hole():
    cut = shell()[..., :75].astype(np.uint8)
    assert vault_hole(cut, SPACING, truncated=False).area_cm2 > 50
    assert vault_hole(cut, SPACING, truncated=True) is None


@pytest.mark.slow
def test_real_heads_are_told_apart(real_data):
    """One whole, one with a defect of the forehead, three whose scans end below the vertex."""
    found = {}
    for name in (
        "heads128/elgabrielc_sample",
        "heads128/invesalius_cranium",
        *(f"truncated64/openkbp_pt_{number}" for number in (282, 332, 15)),
    ):
        image = nibabel.load(real_data / "skulls" / f"{name}.nii.gz")
        mask = np.asarray(image.dataobj).astype(np.uint8)
        spacing = tuple(map(float, image.header.get_zooms()))
        cut = truncated_vault(mask > 0, spacing)
        hole = vault_hole(mask, spacing, truncated=cut)
        found[name.rpartition("/")[2]] = (cut, hole is not None and hole.area_cm2 > 4)
    assert found == {
        "elgabrielc_sample": (False, False),
        "invesalius_cranium": (False, True),
        "openkbp_pt_282": (True, False),
        "openkbp_pt_332": (True, False),
        "openkbp_pt_15": (True, False),
    }
