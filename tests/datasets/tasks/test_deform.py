from __future__ import annotations

import numpy as np
import pytest

from famseg.datasets import Deformation, deform, phantom
from famseg.messages import InputError

STILL = {"rotation_deg": 0.0, "scale": 0.0, "shift_mm": 0.0, "elastic_mm": 0.0, "top": None}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    return phantom(0, 0, 32)


def test_a_share_of_zero_changes_nothing(head: np.ndarray) -> None:
    assert deform(head, Deformation(share=0), 7.0, rng()) is head


def test_a_deformation_of_zero_is_the_identity(head: np.ndarray) -> None:
    assert np.array_equal(deform(head, Deformation(share=1, **STILL), 7.0, rng()), head)


def test_the_generator_alone_decides(head: np.ndarray) -> None:
    one, again, other = (deform(head, Deformation(share=1), 7.0, rng(s)) for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_top_of_the_head_comes_to_the_height_that_is_asked_for(head: np.ndarray) -> None:
    for share in (0.75, 0.95):
        moved = deform(head, Deformation(share=1, **{**STILL, "top": (share, share)}), 7.0, rng())
        top = np.flatnonzero(moved.any(axis=(0, 1)))[-1] + 1
        assert abs(top - share * 32) <= 1


def test_a_shift_moves_the_middle_by_as_many_mm(head: np.ndarray) -> None:
    moved = deform(head, Deformation(share=1, **{**STILL, "shift_mm": 20.0}), 7.0, rng(3))
    way = (np.argwhere(moved).mean(axis=0) - np.argwhere(head).mean(axis=0)) * 7.0
    assert 3 < abs(way[:2]).max() <= 20.5
    assert abs(way[2]) < 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_first_angle_turns_about_the_first_axis(axis: int) -> None:
    """A bar along the second axis turns towards the third by pitch, and no bar by its own axis."""
    bar = np.zeros((32, 32, 32), dtype=np.uint8)
    place: list[slice] = [slice(14, 18)] * 3
    place[axis] = slice(4, 28)
    bar[tuple(place)] = 1
    spread = []
    for seed in range(20):
        turned = deform(
            bar, Deformation(share=1, **{**STILL, "rotation_deg": 40.0}), 7.0, rng(seed)
        )
        points = np.argwhere(turned) - 15.5
        spread.append(np.abs(np.linalg.svd(points, full_matrices=False)[2][0]))
    others = [a for a in range(3) if a != axis]
    tilt = np.mean(spread, axis=0)
    assert tilt[axis] > 0.85
    if axis:  # pitch is twice as large as roll and yaw: it turns axes 1 and 2 into each other
        assert tilt[3 - axis] > 1.3 * tilt[0]
    else:
        assert max(tilt[a] for a in others) < 0.45


def test_elastic_deformation_bends_and_keeps_one_piece_of_like_size(head: np.ndarray) -> None:
    bent = deform(head, Deformation(share=1, **{**STILL, "elastic_mm": 6.0}), 7.0, rng(5))
    assert not np.array_equal(bent, head)
    assert 0.7 < bent.sum() / head.sum() < 1.4


@pytest.mark.parametrize(
    "options", [{"share": 1.5}, {"scale": -0.1}, {"top": (0.9, 0.8)}, {"top": (0.0, 0.8)}]
)
def test_numbers_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match="has a negative number or a share above 1"):
        Deformation(**options)
