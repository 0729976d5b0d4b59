from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from famseg.datasets import phantom
from famseg.reconstruction import write_demo
from famseg.volumes import read_volume


@pytest.mark.slow  # two phantoms of 128^3
def test_the_demonstration_is_a_phantom_with_a_hole(tmp_path: Path) -> None:
    path = write_demo(tmp_path / "new")
    given = read_volume(path)
    whole = phantom(1, 0, 128, 1.75)
    hole = (whole > 0) & (given.array == 0)
    assert given.spacing_mm == pytest.approx((1.75,) * 3)
    assert not ((given.array > 0) & (whole == 0)).any()
    assert 20 < np.count_nonzero(hole) * 1.75**3 / 1000 < 200
    before = path.read_bytes()
    assert write_demo(tmp_path / "new").read_bytes() == before
