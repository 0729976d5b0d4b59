from __future__ import annotations

import numpy as np
import pytest

from famseg.datasets import phantom
from famseg.messages import InputError
from famseg.preparation.steps import bone_field
from famseg.reconstruction._check import back_to_front, check_upright
from famseg.reconstruction._frame import fit_vault

SPACING_MM = 3.5
UPRIGHT, UPSIDE_DOWN, BACK_TO_FRONT = ([1, 1, 1], [1, -1, -1], [-1, -1, 1])


def head(signs: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A phantom whose axes are turned, on a grid with axes to the right, front and top."""
    skull = phantom(0, 0, 64, SPACING_MM) > 0
    turned = skull[tuple(slice(None, None, sign) for sign in signs)]
    return turned, np.diag([SPACING_MM] * 3 + [1.0])


def test_a_head_upside_down_is_refused_in_one_line() -> None:
    for signs in (UPRIGHT, BACK_TO_FRONT):
        field = bone_field(*head(signs))
        check_upright(fit_vault(field), field)
    field = bone_field(*head(UPSIDE_DOWN))
    with pytest.raises(InputError, match=r"upside down by the orientation in the header.*correct"):
        check_upright(fit_vault(field), field)


def test_a_head_back_to_front_is_told() -> None:
    skull, affine = head(UPRIGHT)
    assert back_to_front(fit_vault(bone_field(skull, affine)), skull, affine) == []
    skull[:32, 40:, :30] = False  # without the orbit of one side
    assert back_to_front(fit_vault(bone_field(skull, affine)), skull, affine) == []
    skull, affine = head(BACK_TO_FRONT)
    (warning,) = back_to_front(fit_vault(bone_field(skull, affine)), skull, affine)
    assert "BACK TO FRONT" in warning
    assert "check the orientation" in warning
