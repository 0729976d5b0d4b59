"""What is exported as a module: from the input to probabilities, nothing of famseg around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famseg.reconstruction._coarse import _NEVER, _SHIFTS


class ImplantProbability(nn.Module):
    """`famseg.reconstruction.CoarseNetwork.predict` as a module that can be traced.

    The mean of eight predictions: of the skull and its mirror image, each as it is and shifted by
    a voxel along two axes in three ways. Its numbers are those of ``predict``, but for rounding.

    Args:
        network: Maps a defective skull to logits of the same shape.

    Shape:
        Input ``(n, 1, S, S, S)``, 0 and 1; output the probability that a voxel belongs to the
        implant, of the same shape, 0 where the skull is.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, skull: Tensor) -> Tensor:
        """Return the probability of the implant."""
        total = torch.zeros_like(skull)
        for shift in _SHIFTS:
            back = tuple(-step for step in shift)
            seen = _moved(skull, shift, 0.0)
            for logits in (self.network(seen), self.network(seen.flip(2)).flip(2)):
                total = total + _moved(logits, back, _NEVER).sigmoid()
        return total / (2 * len(_SHIFTS)) * (skull < 0.5).to(total.dtype)


class ClassProbability(nn.Module):
    """A classifier from images on the scale 0 to 1 to the probability of each class.

    Args:
        network: Maps normalized images to logits.
        mean: Mean of each channel, which is subtracted.
        std: Standard deviation of each channel, which is divided by.

    Shape:
        Input ``(n, channels, height, width)``, 0 to 1; output ``(n, classes)``, which sums to 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return the probability of each class."""
        logits: Tensor = self.network((image - self.mean) / self.std)
        return logits.softmax(dim=1)


def _moved(volume: Tensor, shift: Sequence[int], fill: float) -> Tensor:
    """Move a volume by whole voxels; what comes in from outside is ``fill``.

    Slices and padding, which ONNX has, in place of a write into a part of a tensor, which it has
    only by detours.
    """
    kept = [slice(max(-step, 0), -step if step > 0 else None) for step in shift]
    around = [edge for step in reversed(shift) for edge in (max(step, 0), max(-step, 0))]
    return F.pad(volume[:, :, kept[0], kept[1], kept[2]], around, value=fill)
