"""The exported modules, from the input to probabilities, without any code of famseg."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famseg.reconstruction import NEVER, SHIFTS, SMALLEST_PIECE


class ImplantProbability(nn.Module):
    """`famseg.reconstruction.CoarseNetwork.predict` as a module that can be traced.

    It is the mean of eight predictions: of the skull and its mirror image, each unshifted and with
    three shifts of one voxel along two axes. Its numbers equal those of ``predict`` up to rounding.

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
    """A network whose implants have no small pieces, as in `CoarseNetwork.implant_of`.

    MONAI's transforms can remove pieces below a number of voxels, but not below a share of the
    largest. A bundle contains no code, so the rule is part of the network. Pieces are labeled by
    spreading the highest index of their voxels to all neighbors until nothing changes. This takes
    as many steps as the longest piece has voxels, about 0.3 s of one core on a grid of 64.

    Args:
        network: Returns probabilities.
        threshold: Probability above which a voxel belongs to the implant.

    Shape:
        As for the network; the probability in small pieces becomes 0.
    """

    def __init__(self, network: nn.Module, threshold: float) -> None:
        super().__init__()
        self.network = network
        self.threshold = threshold
        # Scripted, since tracing would fix the number of steps to that of the example.
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
        std: Standard deviation of each channel, by which values are divided.

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
    """Return masks, ``(n, 1, X, Y, Z)``, without pieces that are small relative to the largest.

    Args:
        mask: True in the pieces, which are 26-connected.
        share: The share of the largest piece's voxels.
    """
    count = mask[0].numel()
    numbers = torch.arange(1, count + 1, device=mask.device).reshape(mask.shape[1:])
    inside = mask.to(torch.float32)
    # float32 represents integers up to 2^24, the number of voxels in a grid of 256.
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
    """Shift a volume by whole voxels, filling the border with ``fill``.

    It uses slices and padding, which ONNX supports directly, unlike writing into a part of a
    tensor.
    """
    kept = [slice(max(-step, 0), -step if step > 0 else None) for step in shift]
    around = [edge for step in reversed(shift) for edge in (max(step, 0), max(-step, 0))]
    return F.pad(volume[:, :, kept[0], kept[1], kept[2]], around, value=fill)
