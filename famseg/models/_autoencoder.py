"""The skull autoencoder: MONAI's AutoEncoder with a narrow linear bottleneck."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai.networks.nets import AutoEncoder
from torch import Tensor, nn

from famseg.models._cpu_layers import use_cpu_layers
from famseg.models._norms import replace_instance_norm


class ShapeAutoencoder(AutoEncoder):  # type: ignore[misc]  # MONAI ships no types
    """Convolutional autoencoder whose code passes two linear layers, ``latent`` and ``expand``.

    The network of the FAM paper's skull experiment (arXiv 2307.02337, section 4.3): strided
    convolutions, flatten, linear to the latent code, linear back (the regularized "bottleneck
    linear layer", weight of shape ``(features, latent)``), transposed convolutions. With the
    default arguments the sizes are the paper's: 64 features, latent 8, about 1.03 M parameters.
    InstanceNorm is replaced by the equal GroupNorm, see
    :func:`famseg.models.replace_instance_norm`.

    Args:
        size: Edge lengths of the input in voxels, one number for a cube. Each must be divisible by
            the product of the strides.
        channels: Channels after each strided convolution.
        strides: Stride of each convolution, as many as ``channels``.
        latent: Length of the latent code.
        dropout: Dropout probability in the convolution blocks.

    Shape:
        Input ``(n, 1, *size)``, output logits of the same shape.

    Raises:
        ValueError: If the sizes do not fit together.

    Example:
        >>> import torch
        >>> net = ShapeAutoencoder(size=16, channels=(4, 8, 4), strides=(2, 2, 2), latent=3)
        >>> net(torch.zeros(2, 1, 16, 16, 16)).shape
        torch.Size([2, 1, 16, 16, 16])
        >>> net.expand.weight.shape
        torch.Size([32, 3])
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int] = 64,
        channels: Sequence[int] = (32, 64, 128, 64, 8),
        strides: Sequence[int] = (2, 2, 2, 2, 2),
        latent: int = 8,
        dropout: float = 0.0,
    ) -> None:
        grid = (size,) * 3 if isinstance(size, int) else tuple(size)
        self.code_shape = (channels[-1], *_code_grid(grid, channels, strides))
        super().__init__(
            spatial_dims=len(grid),
            in_channels=1,
            out_channels=1,
            channels=tuple(channels),
            strides=tuple(strides),
            dropout=dropout or None,
        )
        use_cpu_layers(replace_instance_norm(self))
        features = math.prod(self.code_shape)
        self.latent = nn.Linear(features, latent)
        self.expand = nn.Linear(latent, features)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the completed shape, of the same shape as ``x``."""
        code: Tensor = self.latent(self.encode(x).flatten(1))
        decoded: Tensor = self.decode(self.expand(code).unflatten(1, self.code_shape))
        return decoded


def _code_grid(
    grid: Sequence[int], channels: Sequence[int], strides: Sequence[int]
) -> tuple[int, ...]:
    """Return the grid after the last convolution, refusing sizes that cannot be restored."""
    if len(channels) != len(strides):
        raise ValueError(
            f"channels and strides must have the same length, got {len(channels)} and "
            f"{len(strides)}."
        )
    factor = math.prod(strides)
    if any(edge % factor for edge in grid):
        raise ValueError(
            f"size {'x'.join(map(str, grid))} is not divisible by the product of the strides, "
            f"{factor}. Choose a multiple of {factor} or other strides."
        )
    code = tuple(edge // factor for edge in grid)
    if math.prod(code) == 1:
        # Normalizing a single voxel always gives zero, so the code would not depend on the input.
        raise ValueError(
            f"strides {list(strides)} shrink size {grid[0]} to a single voxel, which instance "
            "normalization turns into zero. Choose a larger size or fewer strides."
        )
    return code
