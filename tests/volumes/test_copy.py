from __future__ import annotations

import numpy as np
import pytest

from famseg.volumes import copy_into


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_copy_has_every_voxel_in_its_place(axes, order, flip):
    sizes = np.array([130, 17, 70])  # blocks that are cut off at every side
    values = np.random.default_rng(0).integers(0, 99, sizes[np.argsort(axes)]).transpose(axes)
    values = values[:, ::flip]
    to = np.zeros(values.shape, values.dtype, order=order)
    copy_into(to[1:, :, :-1], values[1:, :, :-1])
    assert (to[1:, :, :-1] == values[1:, :, :-1]).all()
    assert not to[0].any()
    assert not to[..., -1].any()


def test_shapes_must_be_equal():
    with pytest.raises(ValueError, match=r"shape \(1, 3, 4\) does not fit into \(2, 3, 4\)"):
        copy_into(np.zeros((2, 3, 4)), np.ones((1, 3, 4)))
