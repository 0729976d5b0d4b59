"""Normalization layers with correct third derivatives."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm


def replace_instance_norm(module: nn.Module) -> nn.Module:
    """Replace every InstanceNorm in a network by the equivalent GroupNorm.

    ``GroupNorm(C, C)`` normalizes each channel of each sample over space, which is InstanceNorm
    without running statistics; parameters keep their names and values. The gradient of a curvature
    penalty needs third derivatives, which torch's native InstanceNorm computes incorrectly without
    a warning, but GroupNorm correctly (``gradcheck`` in the tests of ``ShapeAutoencoder``).

    Args:
        module: The network, changed in place.

    Returns:
        The same network.

    Raises:
        ValueError: If an InstanceNorm has running statistics, which GroupNorm does not support.

    Example:
        >>> net = replace_instance_norm(nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4)))
        >>> net[1].num_groups, net[1].num_channels
        (4, 4)
    """
    for name, child in module.named_children():
        if not isinstance(child, _InstanceNorm):
            replace_instance_norm(child)
            continue
        if child.track_running_stats:
            raise ValueError(
                f"{name} is an InstanceNorm with running statistics, which GroupNorm does not "
                "have. "
                "Build the network with track_running_stats=False."
            )
        channels = child.num_features
        group = nn.GroupNorm(channels, channels, eps=child.eps, affine=child.affine)
        group.load_state_dict(child.state_dict())
        setattr(module, name, group)
    return module
