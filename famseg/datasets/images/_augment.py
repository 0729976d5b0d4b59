"""Augmentation and normalization of whole batches of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from famseg.datasets.images._augment_policy import POLICY_NUMBERS, AutoAugment, Policy
from famseg.datasets.images._augment_random import below, random_bits

# Index of each random number of an image: fixed, so that options do not affect each other.
_DOWN, _RIGHT, _FLIP, _CUT_ROW, _CUT_COLUMN, _POLICY = range(6)


class Augmentation:
    """Converts bytes to normalized floats with random changes, a whole batch at a time.

    The steps are, in this order: AutoAugment; a crop of the image's own size from the image padded
    with zeros (black); a horizontal flip in half of the draws; normalization; cutout, a square of
    zeros, which are the mean color (DeVries and Taylor, 2017, where its center is anywhere in the
    image, so that it may be partly outside). The result for an image is a pure function of (seed,
    index); it does not depend on the batch, the device or the number of processes.

    Args:
        mean: Mean of each channel on the scale 0 to 1.
        std: Standard deviation of each channel on the same scale.
        seed: Seed, 0 or more.
        crop: Pixels of padding on each side; 0 for no crop.
        flip: Whether to flip.
        autoaugment: Policy of AutoAugment, ``"none"`` for none.
        cutout: Edge of the square in pixels; 0 for no cutout.

    Raises:
        ValueError: If the numbers do not fit together.

    Example:
        >>> augment = Augmentation(mean=[0.5], std=[0.25], seed=0)
        >>> images = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
        >>> augment({"image": images, "index": torch.tensor([3])})["image"]
        tensor([[[[-2.,  2.]]]])
    """

    def __init__(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        crop: int = 0,
        flip: bool = False,
        autoaugment: Policy | Literal["none"] = "none",
        cutout: int = 0,
    ) -> None:
        if len(mean) != len(std) or not len(mean) or min(std) <= 0:
            raise ValueError(
                f"mean and std need one value per channel, std above 0, got {list(mean)} and "
                f"{list(std)}."
            )
        if min(seed, crop, cutout) < 0:
            raise ValueError(
                f"seed, crop and cutout must be 0 or more, got {seed}, {crop} and {cutout}."
            )
        self.seed = seed
        self.crop = crop
        self.flip = flip
        self.cutout = cutout
        self.policy: AutoAugment | None = None
        if autoaugment != "none":
            fill = [min(max(round(255 * value), 0), 255) for value in mean]
            self.policy = AutoAugment(autoaugment, fill=fill)
        self._middle = torch.tensor(mean, dtype=torch.float64).mul(255).float()[:, None, None]
        self._scale = torch.tensor(std, dtype=torch.float64).mul(255).reciprocal()
        self._scale = self._scale.float()[:, None, None]

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with another ``image``: float32 of the same shape and device.

        Args:
            batch: ``image``: uint8, shape ``(n, c, h, w)``; ``index``: int64, shape ``(n,)``; what
                else it contains stays.

        Raises:
            ValueError: If the images are not such bytes, or there is not one index per image.
        """
        images, index = batch["image"].contiguous(), batch["index"]
        self._check(images, index)
        bits = random_bits(self.seed, index.to(images.device), _POLICY + POLICY_NUMBERS)
        if self.policy is not None:
            images = self.policy(images, bits[:, _POLICY:])
        if self.crop or self.flip:
            images = self._cropped(images, bits)
        middle, scale = self._middle.to(images.device), self._scale.to(images.device)
        result = images.float().sub_(middle).mul_(scale)
        if self.cutout:
            result.mul_(self._kept(result, bits))
        return {**batch, "image": result}

    def _cropped(self, images: Tensor, bits: Tensor) -> Tensor:
        """Return crops of the padded images, some of them flipped."""
        n, c, h, w = images.shape
        device = images.device
        padded = F.pad(images, [self.crop] * 4)
        down, right = (below(bits[:, k, None], 2 * self.crop + 1) for k in (_DOWN, _RIGHT))
        rows = (down + torch.arange(h, device=device)) * padded.shape[3] + right
        planes = torch.arange(n * c, device=device).view(n, c, 1) * padded[0, 0].numel()
        starts = planes + rows[:, None]
        if self.flip:
            flipped = below(bits[:, _FLIP, None, None], 2)
            starts += flipped * padded.numel()
            padded = torch.stack((padded, padded.flip(3)))
        # A row of the result is contiguous, and copying rows is much faster than copying pixels.
        runs = padded.as_strided((padded.numel() - w + 1, w), (1, 1))
        return runs.index_select(0, starts.flatten()).view(n, c, h, w)

    def _kept(self, images: Tensor, bits: Tensor) -> Tensor:
        """Return a mask with 0 in the square and 1 around it, float32, shape ``(n, 1, h, w)``."""
        n, _, h, w = images.shape
        inside = []
        for edge, number in ((h, _CUT_ROW), (w, _CUT_COLUMN)):
            start = below(bits[:, number, None], edge) - self.cutout // 2
            along = torch.arange(edge, device=images.device) - start
            inside.append(((along >= 0) & (along < self.cutout)).float())
        return (1 - inside[0][:, :, None] * inside[1][:, None, :]).view(n, 1, h, w)

    def _check(self, images: Tensor, index: Tensor) -> None:
        channels = len(self._middle)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(
                f"image must be uint8 of shape (n, {channels}, h, w), got {images.dtype} of "
                f"shape {tuple(images.shape)}."
            )
        if index.dtype != torch.int64 or index.shape != images.shape[:1]:
            raise ValueError(
                f"index must be int64 of shape ({len(images)},), got {index.dtype} of shape "
                f"{tuple(index.shape)}."
            )
