from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from famseg.datasets import WHERES, RegionDefect, inject, phantom
from famseg.preparation.steps import bone_field
from famseg.reconstruction._frame import Frame, Vault, fit_vault
from famseg.reconstruction._openings import SMALLEST_CM2, find_openings, hold_against

SPACING_MM = 3.5
AFFINE = np.diag([SPACING_MM] * 3 + [1.0])
FRAME = Frame(64, SPACING_MM, AFFINE)
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def whole() -> Mask:
    return phantom(2, 0, 64) > 0


@pytest.fixture(scope="module")
def vault(whole: Mask) -> Vault:
    return fit_vault(bone_field(whole, AFFINE))


def cut(whole: Mask, where: str) -> Mask:
    defect = RegionDefect(where)  # type: ignore[arg-type]
    spacing = (SPACING_MM,) * 3
    return inject(whole.astype(np.uint8), defect, spacing, np.random.default_rng(3))[0] > 0


def test_a_whole_vault_has_none(whole: Mask, vault: Vault) -> None:
    assert find_openings(whole, FRAME, vault).total_cm2 == 0


@pytest.mark.parametrize("where", WHERES)
def test_defects_of_all_classes_are_seen(whole: Mask, vault: Vault, where: str) -> None:
    found = find_openings(cut(whole, where), FRAME, vault)
    assert found.total_cm2 > 2 * SMALLEST_CM2
    large = [hole for hole in found.found if hole.area_cm2 >= SMALLEST_CM2]
    assert len(large) == (2 if where == "bilateral" else 1)


def test_what_the_network_left_open_is_continued_from_the_wall(whole: Mask, vault: Vault) -> None:
    holed = cut(whole, "parietotemporal")
    openings = find_openings(holed, FRAME, vault)
    nothing = np.zeros((64,) * 3, dtype=np.float32)
    checked = hold_against(nothing, openings, FRAME, 0.5)
    assert checked.added_cm2 == pytest.approx(openings.total_cm2, rel=0.01)
    filled = (checked.probability > 0.5) & ~holed
    removed = whole & ~holed
    # Two voxels thick: one voxel too deep everywhere would leave a third of this.
    assert 2 * (filled & removed).sum() / (filled.sum() + removed.sum()) > 0.6
    assert find_openings(holed | filled, FRAME, vault).total_cm2 == 0


def test_pieces_behind_no_opening_go_and_the_others_stay(whole: Mask, vault: Vault) -> None:
    holed = cut(whole, "parietotemporal")
    openings = find_openings(holed, FRAME, vault)
    right = (whole & ~holed).astype(np.float32)
    wrong = right.copy()
    wrong[30:34, 52:56, 12:16] = 0.9  # in front of the base
    wrong[29, 53, 13] = 0.3  # and what surrounds it below the threshold
    checked = hold_against(wrong, openings, FRAME, 0.5)
    assert checked.dropped_ml == pytest.approx(64 * SPACING_MM**3 / 1000)
    assert not checked.probability[28:35, 51:57, 11:17].any()
    there = (whole & ~holed) & (checked.probability > 0.5)
    assert there.sum() > 0.95 * (whole & ~holed).sum()
    assert checked.added_cm2 < 0.1 * openings.total_cm2
