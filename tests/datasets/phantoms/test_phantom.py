from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from famseg.datasets import PhantomParameters, phantom, phantom_from
from famseg.messages import InputError

FACES = ndimage.generate_binary_structure(3, 1)
CORNERS = np.ones((3, 3, 3))


def mean_parameters(**changes: float) -> PhantomParameters:
    middle = {
        name: (low + high) / 2 for name, (low, high, *_) in PhantomParameters.ranges().items()
    }
    return PhantomParameters(**{**middle, **changes})


def test_the_same_arguments_give_the_same_skull() -> None:
    assert np.array_equal(phantom(5, 2, 32), phantom(5, 2, 32))


def test_subject_and_seed_change_the_shape() -> None:
    first = phantom(5, 2, 32)
    assert not np.array_equal(first, phantom(6, 2, 32))
    assert not np.array_equal(first, phantom(5, 3, 32))
    assert not np.array_equal(phantom(1, 2, 32), phantom(2, 1, 32))


@pytest.mark.parametrize("subject", range(8))
@pytest.mark.parametrize("size", [24, 32, 64])
def test_one_connected_piece_inside_the_grid(subject: int, size: int) -> None:
    mask = phantom(subject, 0, size)
    assert mask.dtype == np.uint8
    assert mask.shape == (size,) * 3
    assert set(np.unique(mask)) == {0, 1}
    assert ndimage.label(mask, structure=CORNERS)[1] == 1
    if size >= 32:  # coarser voxels thicken the thinnest parts
        border = np.ones_like(mask, dtype=bool)
        border[1:-1, 1:-1, 1:-1] = False
        assert not mask[border].any()


@pytest.mark.parametrize("subject", range(8))
@pytest.mark.parametrize("size", [32, 48, 64])
def test_the_vault_is_closed_above_the_base(subject: int, size: int) -> None:
    # A fill that starts above the orbits must not reach the outside through faces of voxels.
    mask = phantom(subject, 0, size)
    upper = mask[:, :, int(0.55 * size) :] == 0
    rooms, _ = ndimage.label(upper, structure=FACES)
    center = rooms[size // 2, size // 2, 1]
    assert center != 0
    assert center != rooms[0, 0, 0]


def test_the_cranial_cavity_opens_downwards_through_the_foramen_magnum() -> None:
    mask = phantom_from(mean_parameters())
    below, above = mask[:, :, :32].any(axis=2), mask[:, :, 32:].any(axis=2)
    window = np.zeros_like(below)
    window[30:34, 22:32] = True  # behind the center of the head
    assert (above & ~below & window).any(), "bone everywhere below the cavity"


def test_orbits_and_nose_are_open_to_the_front() -> None:
    mask = phantom_from(mean_parameters(), 128)
    depth = np.where(mask.any(axis=1), mask[:, ::-1].argmax(axis=1), 128) * 1.75
    z = int(64 + (-27 + 3) / 1.75)
    right, left = int(64 + 31 / 1.75), int(63 - 31 / 1.75)
    bridge = depth[62:66, z].min()
    assert depth[right, z] > bridge + 20
    assert depth[left, z] > bridge + 20
    nose = int(64 + (-50 + 3) / 1.75)
    assert depth[64 + 4, nose] > depth[64 + 4, nose - 14] + 15


def test_zygomatic_arches_are_free_of_the_skull() -> None:
    mask = phantom_from(mean_parameters(), 128)
    row = mask[:, int(64 + 22 / 1.75), int(64 + (-42 + 3) / 1.75)]
    runs = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])) == 1)
    assert len(runs) >= 4, "arch, skull, skull, arch"


def test_left_and_right_differ() -> None:
    mask = phantom(0, 0)
    assert not np.array_equal(mask, mask[::-1])
    straight = mean_parameters(
        skew=0.0, side_difference=0.0, roll_deg=0.0, yaw_deg=0.0, offset_x_mm=0.0
    )
    even = phantom_from(straight)
    assert np.mean(even != even[::-1]) < 0.001


@pytest.mark.parametrize(("name", "axis"), [("length_mm", 1), ("breadth_mm", 0), ("height_mm", 2)])
def test_a_larger_measure_makes_a_larger_head(name: str, axis: int) -> None:
    low, high, *_ = PhantomParameters.ranges()[name]
    extent = []
    for value in (low, high):
        mask = phantom_from(mean_parameters(**{name: value}), 64)[:, :, 32:]
        hits = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        extent.append((hits[-1] - hits[0] + 1) * 3.5)
    # The mask is the upper half of the grid, with 0.6 of the head's height.
    share = 0.6 if name == "height_mm" else 1.0
    assert extent[1] - extent[0] == pytest.approx(share * (high - low), abs=7.1)


def test_the_wall_is_as_thick_as_drawn() -> None:
    parameters = mean_parameters(thickness_mm=8.0, thickness_variation=0.15)
    mask = phantom_from(parameters, 128)
    assert mask[64, 64, 64:].sum() * 1.75 == pytest.approx(8.0, abs=1.8)


@pytest.mark.slow
def test_marrow_shows_in_fine_voxels_alone() -> None:
    slices = [phantom_from(mean_parameters(), size)[:, :, int(0.7 * size)] for size in (224, 112)]
    rooms = [ndimage.label(bone == 0)[1] for bone in slices]
    assert rooms[0] > 20
    assert rooms[1] == 2, "outside and inside"


def test_resolutions_show_the_same_head() -> None:
    fine, coarse = phantom(1, 0, 128), phantom(1, 0, 64)
    blocks = fine.reshape(64, 2, 64, 2, 64, 2).mean(axis=(1, 3, 5)) >= 0.5
    overlap = 2 * (blocks & (coarse == 1)).sum() / (blocks.sum() + coarse.sum())
    assert overlap > 0.75


@pytest.mark.slow
def test_the_population_varies_as_real_heads_do() -> None:
    # Leave-one-out mean skull of real, unregistered heads at 64^3: Dice 0.56 to 0.60.
    masks = np.stack([phantom(i, 0) for i in range(40)]).astype(np.int64)
    total = masks.sum(axis=0)
    scores = []
    for mask in masks:
        mean = (total - mask) / (len(masks) - 1)
        scores.append(
            max(
                2 * (mask * (mean > t)).sum() / (mask.sum() + (mean > t).sum())
                for t in (0.2, 0.3, 0.4)
            )
        )
    assert 0.48 < np.mean(scores) < 0.65


def test_parameters_lie_in_their_ranges_and_say_where_they_come_from() -> None:
    drawn = [PhantomParameters.draw(np.random.default_rng(i)) for i in range(20)]
    for name, (low, high, unit, source) in PhantomParameters.ranges().items():
        values = [getattr(p, name) for p in drawn]
        assert low <= min(values) < max(values) <= high
        assert unit in {"mm", "degree", "1"}
        assert source
    assert (PhantomParameters.ranges()["length_mm"])[:3] == (165.0, 200.0, "mm")


def test_parameters_outside_their_ranges_are_refused_all_at_once() -> None:
    good = PhantomParameters.draw(np.random.default_rng(0))
    with pytest.raises(InputError) as caught:
        dataclasses.replace(good, length_mm=300.0, roll_deg=-20.0)
    assert caught.value.faults == (
        "phantom: length_mm 300 is outside 165 to 200 mm",
        "phantom: roll_deg -20 is outside -3 to 3 degree",
    )


def test_every_head_that_can_be_drawn_fits() -> None:
    large = {"length_mm": 200.0, "height_mm": 145.0, "face_height_mm": 78.0, "base_depth": 1.1}
    for pitch in (-9.0, 9.0):
        for bun in (0.0, 0.10):
            mask = phantom_from(
                mean_parameters(**large, pitch_deg=pitch, occipital_bun=bun, offset_z_mm=-2.0), 64
            )
            assert not mask[:, :, [0, -1]].any()
            assert not mask[:, [0, -1]].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subject": -1, "seed": 0}, "phantom: subject -1 and seed 0 must be 0 or more"),
        (
            {"subject": 0, "seed": 0, "size": 8},
            "phantom: size 8, spacing_mm None: give a size of 16 or more and a spacing above 0 mm",
        ),
        (
            {"subject": 0, "seed": 0, "spacing_mm": 0.0},
            "phantom: size 64, spacing_mm 0.0: give a size of 16 or more and a spacing above 0 mm",
        ),
        (
            {"subject": 0, "seed": 0, "spacing_mm": float("nan")},
            "phantom: size 64, spacing_mm nan: give a size of 16 or more and a spacing above 0 mm",
        ),
        (
            {"subject": 0, "seed": 0, "spacing_mm": 2.0},
            "phantom: 64 voxels of 2 mm cover 128 mm, a head needs 216 mm: use spacing_mm 3.38 or "
            "more, or size 108 or more",
        ),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as caught:
        phantom(**arguments)
    assert str(caught.value) == message
