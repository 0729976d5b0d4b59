from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from famseg.preparation import Settings
from famseg.preparation.steps._clean import fill_holes


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_cavity_is_filled_in_a_mask_of_either_order_in_memory(order: Literal["C", "F"]) -> None:
    mask = np.ones((20, 20, 20), dtype=bool, order=order)
    mask[8:12, 8:12, 8:12] = False
    filled = fill_holes(mask, (1.0, 1.0, 1.0), Settings(64, 3.5, holes="enclosed"))
    assert filled is mask
    assert filled.all()
