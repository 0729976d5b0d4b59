"""The exported module: from the input to probabilities, without any code of famseg."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famseg.reconstruction import NEVER, SHIFTS, SMALLEST_PIECE


class ImplantProbability(nn.Module):
    """`famseg.reconstruction.CoarseNetwork.predict` as a module that can be traced.

    The mean of eight predictions: of the skull and its mirror image, each unshifted and shifted by
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
        for shift in SHIFTS:
            back = tuple(-step for step in shift)
            seen = _moved(skull, shift, 0.0)
            for logits in (self.network(seen), self.network(seen.flip(2)).flip(2)):
                total = total + _moved(logits, back, NEVER).sigmoid()
        return total / (2 * len(SHIFTS)) * (skull < 0.5).to(total.dtype)


class LargePieces(nn.Module):
    """A network whose implant has lost its small pieces, as `CoarseNetwork.implant_of` leaves them.

    MONAI's transforms know pieces smaller than a number of voxels, not than a share of the largest;
    a bundle, which holds no code, has the rule in its network. Pieces are told apart by spreading
    the highest number of their voxels to all neighbors until nothing changes, which takes as many
    steps as the longest piece has voxels: some 0.3 s of one core on a grid of 64.

    Args:
        network: Gives probabilities.
        threshold: A voxel belongs to the implant from this probability on.

    Shape:
        As of the network; the probability of small pieces becomes 0.
    """

    def __init__(self, network: nn.Module, threshold: float) -> None:
        super().__init__()
        self.network = network
        self.threshold = threshold
        # Scripted, since tracing would keep the number of steps of the example.
        self._kept = torch.jit.script(_kept)

    def forward(self, skull: Tensor) -> Tensor:
        """Return the probability of the implant without its small pieces."""
        probability: Tensor = self.network(skull)
        kept: Tensor = self._kept(probability >= self.threshold, SMALLEST_PIECE)
        return probability * kept.to(probability.dtype)


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


def _kept(mask: Tensor, share: float) -> Tensor:
    """Return all but the pieces of masks, ``(n, 1, X, Y, Z)``, that are small beside the largest.

    Args:
        mask: True in the pieces, which hang together by faces, edges and corners.
        share: The share of the largest piece's voxels.
    """
    count = mask[0].numel()
    numbers = torch.arange(1, count + 1, device=mask.device).reshape(mask.shape[1:])
    inside = mask.to(torch.float32)
    # float32 holds whole numbers up to 2^24, the voxels of a grid of 256.
    labels = numbers.to(torch.float32) * inside
    changed = True
    while changed:
        spread = F.max_pool3d(labels, 3, 1, 1) * inside
        changed = not torch.equal(spread, labels)
        labels = spread
    pieces = labels.flatten(1).to(torch.int64)
    sizes = torch.zeros(mask.shape[0], count + 1, dtype=torch.float64, device=mask.device)
    sizes.scatter_add_(1, pieces, inside.flatten(1).to(torch.float64))
    large = sizes >= share * sizes.amax(dim=1, keepdim=True)
    return large.gather(1, pieces).reshape(mask.shape) | ~mask


def _moved(volume: Tensor, shift: Sequence[int], fill: float) -> Tensor:
    """Move a volume by whole voxels; what comes in from outside is ``fill``.

    Slices and padding, which ONNX has, in place of a write into a part of a tensor, which it has
    only by detours.
    """
    kept = [slice(max(-step, 0), -step if step > 0 else None) for step in shift]
    around = [edge for step in reversed(shift) for edge in (max(step, 0), max(-step, 0))]
    return F.pad(volume[:, :, kept[0], kept[1], kept[2]], around, value=fill)
