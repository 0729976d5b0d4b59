"""From a scan to a skull on the grid: phantoms as CT, with all that lies around a head in one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from famseg.datasets import SphereDefect, inject, phantom
from famseg.messages import InputError
from famseg.preparation import Scan, Settings, prepare_scan
from famseg.volumes import Volume, read_volume

SPACING = 3.5
AFFINE = np.diag([SPACING, SPACING, SPACING, 1.0])
SETTINGS = Settings(size=64, spacing_mm=SPACING)
AIR, WATER, BONE = -1000.0, 30.0, 900.0


@pytest.fixture(scope="module")
def bone():
    return phantom(0, 0)


@pytest.fixture(scope="module")
def head(bone):
    """A CT of the phantom: skin, brain, and 2 cm of air above."""
    whole = ndimage.binary_fill_holes(ndimage.binary_dilation(bone, iterations=3))
    hull = ndimage.binary_closing(np.pad(whole, 8), iterations=8)[8:-8, 8:-8, 8:-8]
    soft = np.where(hull, WATER, AIR)
    return ndimage.gaussian_filter(np.where(bone, BONE, soft), 0.4).astype(np.int16)


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def centered(mask):
    """The box around the bone, so that grids need not agree."""
    where = np.argwhere(mask)
    low, high = where.min(0), where.max(0) + 1
    return mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]


def ct(values, affine=AFFINE):
    return Scan(Volume(values, affine), "hounsfield")


def test_a_ct_gives_the_bone_that_it_was_made_of(head, bone):
    done = prepare_scan(ct(head), SETTINGS)
    found = done.skull.array
    assert found.shape == (64, 64, 64)
    assert found.dtype == np.uint8
    assert done.quality.threshold == 226
    assert done.quality.spacing_mm == pytest.approx((SPACING,) * 3)
    volume = bone.sum() * SPACING**3 / 1000
    assert done.quality.volume_ml == pytest.approx(volume, rel=0.15)
    assert done.quality.volume_ml == pytest.approx(found.sum() * SPACING**3 / 1000)
    wanted = ndimage.binary_fill_holes(bone)
    shifts = [np.argwhere(m).mean(0) for m in (found, wanted)]
    moved = ndimage.shift(wanted.astype(float), shifts[0] - shifts[1], order=1) > 0.5
    assert dice(found.astype(bool), moved) > 0.85


def test_axes_are_turned_to_right_front_and_top(head):
    turned = np.diag([-SPACING, -SPACING, SPACING, 1.0])
    turned[:2, 3] = 63 * SPACING
    straight, back = (prepare_scan(s, SETTINGS) for s in (ct(head), ct(head[::-1, ::-1], turned)))
    assert (straight.skull.array == back.skull.array).all()


def test_the_vertex_stands_at_one_height(head, bone):
    """A sixteenth of the grid below its upper end, whatever the scan shows around the head."""
    lower = np.pad(head, ((0, 0), (0, 0), (0, 12)), constant_values=int(AIR))
    tops = [
        int(np.flatnonzero(prepare_scan(ct(v), SETTINGS).skull.array.any((0, 1)))[-1])
        for v in (head, lower)
    ]
    assert tops == [59, 59]
    assert bone.any()


def test_a_table_and_a_holder_are_removed(head):
    lying = np.pad(head, ((0, 0), (12, 0), (0, 0)), constant_values=int(AIR))
    with_table = lying.copy()
    with_table[4:60, 2:4, :] = 600
    done, alone = (prepare_scan(ct(values), SETTINGS) for values in (with_table, lying))
    assert done.quality.removed_ml["table and holder"] > 50
    assert dice(done.skull.array, alone.skull.array) > 0.98


def test_a_mask_is_taken_as_it_is(bone):
    for values in (bone, bone.astype(np.int32) * 255, bone.astype(np.float32)):
        done = prepare_scan(
            Scan(Volume(values, AFFINE), "mask"), Settings(64, SPACING, holes="keep")
        )
        assert done.quality.threshold is None
        assert done.quality.volume_ml == pytest.approx(bone.sum() * SPACING**3 / 1000, rel=0.1)


def test_voxels_that_are_not_cubic_keep_the_volume():
    """A smooth ball comes out as large from thick slices as from thin ones."""
    radius, sizes = 70.0, []
    for spacing in ((1.75, 1.75, 1.75), (1.75, 1.75, 5.25)):
        axes = [np.arange(-90, 90, s) for s in spacing]
        x, y, z = np.meshgrid(*axes, indexing="ij")
        distance = np.sqrt(x**2 + y**2 + z**2)
        shell = np.clip((5 - np.abs(distance - radius)) / 2 + 0.5, 0, 1)
        values = np.where(distance < radius + 12, WATER, AIR) * (1 - shell) + BONE * shell
        scan = ct(values.astype(np.int16), np.diag([*spacing, 1.0]))
        sizes.append(prepare_scan(scan, Settings(128, 1.75, holes="keep")).quality.volume_ml)
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_companions_are_disjoint_and_make_up_the_skull(bone):
    holed, _ = inject(bone, SphereDefect((60, 60)), (SPACING,) * 3, np.random.default_rng(0))
    scans = {
        ("defective", "bilateral"): Scan(Volume(holed, AFFINE), "mask"),
        ("implant", "bilateral"): Scan(Volume(bone - holed, AFFINE), "mask"),
    }
    done = prepare_scan(Scan(Volume(bone, AFFINE), "mask"), SETTINGS, companions=scans)
    defective, implant = (
        done.companions[role, "bilateral"].array for role in ("defective", "implant")
    )
    assert implant.any()
    assert not (defective & implant).any()
    assert ((defective | implant) == done.skull.array).all()


def test_one_companion_gives_the_other(bone):
    holed, _ = inject(bone, SphereDefect((60, 60)), (SPACING,) * 3, np.random.default_rng(0))
    scans = {("defective", ""): Scan(Volume(holed, AFFINE), "mask")}
    done = prepare_scan(Scan(Volume(bone, AFFINE), "mask"), SETTINGS, companions=scans)
    implant = done.companions["implant", ""].array
    taken = (bone.sum() - holed.sum()) * SPACING**3
    assert implant.sum() * SPACING**3 == pytest.approx(taken, rel=0.2)


def test_a_hole_in_the_vault_is_reported(bone):
    holed, _ = inject(bone, SphereDefect((70, 70)), (SPACING,) * 3, np.random.default_rng(0))
    whole, open_ = (
        prepare_scan(Scan(Volume(mask, AFFINE), "mask"), SETTINGS).quality for mask in (bone, holed)
    )
    assert not whole.existing_defect
    assert open_.existing_defect


def test_a_vault_that_is_cut_off_is_reported(bone):
    top = int(np.flatnonzero(bone.any((0, 1)))[-1])
    whole, cut = (
        prepare_scan(Scan(Volume(mask, AFFINE), "mask"), SETTINGS).quality
        for mask in (bone, bone[:, :, : top - 5])
    )
    assert not whole.truncated_vault
    assert cut.truncated_vault


@pytest.mark.slow
def test_a_turned_head_is_brought_back_to_the_template():
    fine = phantom(1, 0, 96)
    spacing = 224 / 96
    affine = np.diag([spacing, spacing, spacing, 1.0])
    turned = ndimage.rotate(fine.astype(np.float32), 15, axes=(0, 1), reshape=False, order=1) > 0.5
    moved = ndimage.shift(turned.astype(np.float32), (3, -2, 0), order=0).astype(np.uint8)
    done = prepare_scan(
        Scan(Volume(moved, affine), "mask"),
        Settings(96, spacing, holes="keep", crop="none"),
        template=Volume(fine, affine),
    )
    straight = prepare_scan(
        Scan(Volume(fine, affine), "mask"),
        Settings(96, spacing, holes="keep", crop="none"),
        template=Volume(fine, affine),
    )
    assert done.quality.alignment_residual_mm < 2.5
    assert dice(done.skull.array, straight.skull.array) > 0.8


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (np.zeros((40, 40, 40), np.uint8), "all zero|no bone|empty"),
        (np.ones((40, 40, 40), np.uint8), "full|every voxel"),
    ],
)
def test_what_is_no_skull_is_refused(values, fault):
    with pytest.raises(InputError, match=fault):
        prepare_scan(Scan(Volume(values, AFFINE), "mask"), SETTINGS)


def test_a_ct_without_bone_is_refused(head):
    with pytest.raises(InputError, match="no bone: the highest value is 100, the threshold is 226"):
        prepare_scan(ct(np.minimum(head, 100)), SETTINGS)


def test_a_head_that_does_not_fit_is_refused(bone):
    with pytest.raises(InputError, match=r"mm"):
        prepare_scan(Scan(Volume(bone, AFFINE), "mask"), Settings(size=32, spacing_mm=SPACING))


def test_faults_of_settings_come_together():
    with pytest.raises(InputError) as caught:
        Settings(size=8, spacing_mm=50.0, crop="neck")
    assert len(caught.value.faults) == 3


@pytest.mark.slow
def test_a_real_ct_agrees_with_its_mask(real_data):
    from famseg.preparation import find_sources

    (source,) = find_sources(real_data / "skulls" / "dicom" / "toshiba").sources
    done = prepare_scan(source.read(), Settings(size=128, spacing_mm=1.75))
    name = "tcia_cptac_lscc_C3N-04457.nii.gz"
    wanted = read_volume(real_data / "skulls" / "heads128" / name).array.astype(bool)
    found = done.skull.array.astype(bool)
    step = np.round(np.argwhere(found).mean(0) - np.argwhere(wanted).mean(0)).astype(int)
    assert dice(found, np.roll(wanted, step, (0, 1, 2))) > 0.8
