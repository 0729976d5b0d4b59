from __future__ import annotations

import pytest
import torch
from torch import nn

from famseg.models import replace_instance_norm


@pytest.mark.parametrize("affine", [False, True])
def test_the_replacement_is_the_same_function(affine: bool) -> None:
    torch.manual_seed(0)
    before = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Sequential(nn.InstanceNorm3d(4, affine=affine)))
    if affine:
        nn.init.uniform_(before[1][0].weight)
    volumes = torch.rand(2, 1, 6, 6, 6)
    expected = before(volumes)
    names = list(before.state_dict())
    after = replace_instance_norm(before)
    assert isinstance(after[1][0], nn.GroupNorm)
    assert list(after.state_dict()) == names
    torch.testing.assert_close(after(volumes), expected)


def test_running_statistics_are_refused() -> None:
    net = nn.Sequential(nn.InstanceNorm3d(4, track_running_stats=True))
    with pytest.raises(ValueError, match="0 is an InstanceNorm with running statistics"):
        replace_instance_norm(net)
