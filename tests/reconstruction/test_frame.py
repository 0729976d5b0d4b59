from __future__ import annotations

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from famseg.datasets import RegionDefect, inject, phantom
from famseg.messages import InputError
from famseg.preparation.steps import bone_field
from famseg.reconstruction._frame import Frame, fit_vault, place_frame

SPACING_MM = 3.5
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def skull() -> Mask:
    mask = phantom(0, 0, 64) > 0
    mask.setflags(write=False)
    return mask


@pytest.fixture(scope="module")
def affine() -> NDArray[np.float64]:
    matrix = np.diag([SPACING_MM] * 3 + [1.0])
    matrix[:3, 3] = (-100.0, -120.0, 35.0)
    return matrix


def test_the_vault_lies_where_the_frame_says(skull: Mask, affine: NDArray[np.float64]) -> None:
    vault = fit_vault(bone_field(skull, affine))
    frame = place_frame(vault, size=64, spacing_mm=SPACING_MM)
    middle = frame.affine[:3, :3] @ np.full(3, 31.5) + frame.affine[:3, 3]
    assert vault.top_mm - middle[2] == pytest.approx(0.38 * 64 * SPACING_MM)
    assert vault.middle_mm[:2] - middle[:2] == pytest.approx([0, -6])
    # The phantom's own cube has the vault nearly there: heads of training stand alike.
    own = affine[:3, :3] @ np.full(3, 31.5) + affine[:3, 3]
    assert np.abs(middle - own).max() < 15


@pytest.mark.parametrize("where", ["frontoorbital", "bilateral", "parietotemporal", "random_1"])
def test_a_hole_hardly_moves_the_frame(
    skull: Mask, affine: NDArray[np.float64], where: str
) -> None:
    whole = fit_vault(bone_field(skull, affine))
    spacing = (SPACING_MM,) * 3
    defect = RegionDefect(where)  # type: ignore[arg-type]
    holed, _ = inject(skull.astype(np.uint8), defect, spacing, np.random.default_rng(0))
    found = fit_vault(bone_field(holed > 0, affine))
    assert abs(found.top_mm - whole.top_mm) < 3
    assert np.abs(found.middle_mm - whole.middle_mm)[:2].max() < 5


def test_a_missing_face_hardly_moves_the_frame(skull: Mask, affine: NDArray[np.float64]) -> None:
    whole = fit_vault(bone_field(skull, affine))
    vault = skull.copy()
    vault[:, :, :26] = False
    found = fit_vault(bone_field(vault, affine))
    assert abs(found.top_mm - whole.top_mm) < 2
    assert np.abs(found.middle_mm - whole.middle_mm)[:2].max() < 3


def test_turned_and_flipped_grids_give_the_same_frame(
    skull: Mask, affine: NDArray[np.float64]
) -> None:
    straight = fit_vault(bone_field(skull, affine))
    for codes in ("LPS", "ASR", "SRA", "PIL"):
        turn = nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
        )
        turned = nibabel.orientations.apply_orientation(skull, turn)
        moved = affine @ nibabel.orientations.inv_ornt_aff(turn, skull.shape)
        found = fit_vault(bone_field(turned, moved))
        assert found.middle_mm == pytest.approx(straight.middle_mm, abs=1e-3)
        assert found.half_axes_mm == pytest.approx(straight.half_axes_mm, abs=1e-3)


def test_shares_on_the_own_grid_are_the_mask(skull: Mask, affine: NDArray[np.float64]) -> None:
    frame = Frame(64, SPACING_MM, affine)
    assert ((frame.shares(bone_field(skull, affine)) > 0.5) == skull).all()


def test_values_come_back_by_linear_interpolation(affine: NDArray[np.float64]) -> None:
    frame = Frame(64, SPACING_MM, affine)
    i, j, k = np.indices((64,) * 3, dtype=np.float32)
    linear = i + 2 * j - k
    fine = affine @ np.diag([0.4, 0.25, 0.5, 1.0])
    fine[:3, 3] = affine[:3, :3] @ [10, 11, 12] + affine[:3, 3]
    back = frame.to_grid(linear, fine, (20, 30, 10))
    x, y, z = np.indices((20, 30, 10))
    assert back == pytest.approx(10 + 0.4 * x + 2 * (11 + 0.25 * y) - 12 - 0.5 * z, abs=1e-3)
    away = fine.copy()
    away[:3, 3] -= 1000
    assert not frame.to_grid(linear, away, (4, 4, 4)).any(), "nothing outside of the cube"


def test_noise_has_no_vault() -> None:
    noise = np.random.default_rng(0).random((64, 64, 64)) < 0.3
    with pytest.raises(InputError, match=r"no vault was found: only .* % of the rays"):
        fit_vault(bone_field(noise, np.diag([SPACING_MM] * 3 + [1.0])))


def test_only_the_part_that_is_reached_is_resampled_and_is_right() -> None:
    """An oblique grid: a box of it gets values, which are those of the whole resampling."""
    rng = np.random.default_rng(0)
    cube = Frame(16, 3.5, np.diag([3.5, 3.5, 3.5, 1.0]))
    values = np.zeros((16, 16, 16), dtype=np.float32)
    values[9:12, 4:6, 7] = rng.random((3, 2))
    values[15, 15, 15] = 1.0  # fades out beyond the cube
    turn = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * [1.0, 1.5, 2.0], [-10.0, -20.0, -15.0]
    for part in (values, np.where(values == 1, 0, values).astype(np.float32)):
        to_index = np.linalg.inv(cube.affine) @ affine
        whole = ndimage.affine_transform(
            part,
            to_index[:3, :3],
            offset=to_index[:3, 3],
            output_shape=(90, 70, 50),
            order=1,
            mode="grid-constant",
        )
        box = cube.box_in_grid(part > 0, affine, (90, 70, 50))
        assert np.abs(cube.to_grid(part, affine, (90, 70, 50)) - whole).max() < 1e-6
        assert whole[box].sum() == pytest.approx(whole.sum())
        assert 0 < whole[box].size < whole.size
