"""The network that predicts the implant of a defective skull: a MONAI encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from monai.networks.nets import SegResNet, UNet
from torch import Tensor, nn

from famseg.models._cpu_layers import use_cpu_layers
from famseg.models._norms import replace_instance_norm

Kind = Literal["unet", "segresnet"]

_RARE = -4.0  # initial logit, since an implant has about a hundredth of the voxels
_GROUPS = 8  # groups of GroupNorm in the SegResNet, which divide its channels


class ImplantNetwork(nn.Module):
    """Defective skull to implant: MONAI's UNet or SegResNet between folded voxels.

    Blocks of voxels, ``fold`` along each edge, become channels; the body works on that coarser
    grid, and a 1x1x1 convolution, ``head``, gives one logit for each voxel of a block. An implant
    follows the smooth shape of the head, so that full resolution adds no more than a shift by less
    than a block, which channels express. At 64^3 and ``fold`` 2 a step takes 0.07 s a sample on
    one core; a UNet of 8 channels at full resolution takes 0.1 s and a wider one a multiple.
    With ``mirror`` the left-right mirror image of the skull is an additional input, as surgeons
    plan an implant from the healthy side. Only the implant is predicted: the completed skull is the
    input with the implant.

    The body ends in ``channels[0]`` channels, 8 or more: MONAI's UNet with one output channel
    would normalize that channel at full resolution. All norms are GroupNorm, whose third
    derivatives are correct, so that ``head`` and every other layer can be penalized.

    Args:
        kind: ``unet`` (strided convolutions) or ``segresnet`` (residual blocks).
        size: Voxels along each edge of the cube.
        channels: Channels of the levels of the body, from fine to coarse. The SegResNet doubles
            ``channels[0]`` from level to level, which the others must agree with.
        units: Convolutions a level: residual units of the UNet; blocks of the SegResNet on the way
            down.
        fold: Edge of the blocks that become channels: 1, 2 or 4.
        mirror: Whether the mirror image is a second input.

    Shape:
        Input ``(n, 1, size, size, size)``, 0 and 1; output logits of the implant, the same shape.

    Raises:
        ValueError: If the sizes do not fit together.

    Example:
        >>> net = ImplantNetwork(size=16, channels=(8, 16), units=1)
        >>> net(torch.zeros(2, 1, 16, 16, 16)).shape
        torch.Size([2, 1, 16, 16, 16])
        >>> net.head.weight.shape
        torch.Size([8, 8, 1, 1, 1])
    """

    def __init__(
        self,
        *,
        kind: Kind = "unet",
        size: int = 64,
        channels: Sequence[int] = (32, 64, 96, 128),
        units: int = 1,
        fold: int = 2,
        mirror: bool = True,
    ) -> None:
        super().__init__()
        _check(kind, size, channels, fold)
        self.size = size
        self.fold = fold
        self.mirror = mirror
        inputs = (2 if mirror else 1) * fold**3
        self.body = _BODIES[kind](inputs, tuple(channels), units)
        self.head = nn.Conv3d(channels[0], fold**3, 1)
        nn.init.constant_(self.head.bias, _RARE)  # type: ignore[arg-type]  # it exists

    def forward(self, skull: Tensor) -> Tensor:
        """Return the logits of the implant, of the same shape as ``skull``."""
        seen = torch.cat([skull, skull.flip(2)], dim=1) if self.mirror else skull
        logits: Tensor = self.head(self.body(_fold(seen, self.fold)))
        return _unfold(logits, self.fold)


def _unet(inputs: int, channels: tuple[int, ...], units: int) -> nn.Module:
    body = UNet(
        spatial_dims=3,
        in_channels=inputs,
        out_channels=channels[0],
        channels=channels,
        strides=(2,) * (len(channels) - 1),
        num_res_units=units,
    )
    return use_cpu_layers(nn.Sequential(replace_instance_norm(body), nn.PReLU()))


def _segresnet(inputs: int, channels: tuple[int, ...], units: int) -> nn.Module:
    body: nn.Module = SegResNet(
        spatial_dims=3,
        init_filters=channels[0],
        in_channels=inputs,
        out_channels=channels[0],
        norm=("GROUP", {"num_groups": _GROUPS}),
        blocks_down=(units,) * len(channels),
        blocks_up=(1,) * (len(channels) - 1),
    )
    return use_cpu_layers(nn.Sequential(body, nn.PReLU()))


_BODIES = {"unet": _unet, "segresnet": _segresnet}


def _check(kind: str, size: int, channels: Sequence[int], fold: int) -> None:
    """Refuse sizes that do not fit together."""
    if fold not in (1, 2, 4):
        raise ValueError(f"fold is {fold}. Choose 1, 2 or 4 voxels.")
    if len(channels) < 2:
        raise ValueError(
            f"channels {list(channels)} do not make levels. Give at least two numbers."
        )
    if channels[0] < _GROUPS:
        raise ValueError(
            f"channels begin with {channels[0]}; the head needs at least {_GROUPS} channels."
        )
    factor = fold * 2 ** (len(channels) - 1)
    if size % factor or size == factor:
        raise ValueError(
            f"size {size} must be a multiple of {factor} and larger than it: fold {fold} and "
            f"{len(channels)} levels halve it that often. Choose another size or fewer channels."
        )
    doubled = [channels[0] * 2**level for level in range(len(channels))]
    if kind == "segresnet" and (list(channels) != doubled or channels[0] % _GROUPS):
        raise ValueError(
            f"channels {list(channels)}: a SegResNet doubles them from level to level, beginning "
            f"with a multiple of {_GROUPS}, as in [16, 32, 64]."
        )


def _fold(volume: Tensor, fold: int) -> Tensor:
    """Convert blocks of voxels to channels: ``(n, c, X, ...)`` to ``(n, c f^3, X / f, ...)``."""
    n, c, x, y, z = volume.shape
    blocks = volume.reshape(n, c, x // fold, fold, y // fold, fold, z // fold, fold)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def _unfold(channels: Tensor, fold: int) -> Tensor:
    """Convert ``f^3`` channels to blocks of voxels, the inverse of `_fold` for one channel."""
    n, _, x, y, z = channels.shape
    blocks = channels.reshape(n, fold, fold, fold, x, y, z)
    volume = blocks.permute(0, 4, 1, 5, 2, 6, 3)
    return volume.reshape(n, 1, x * fold, y * fold, z * fold)
