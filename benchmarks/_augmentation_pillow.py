"""The conventional pipeline: one image at a time with Pillow and numpy, in a data set's item."""

from __future__ import annotations

import random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from famseg.datasets.images import POLICIES, amount, parameter

_ENHANCE = {
    "Contrast": ImageEnhance.Contrast,
    "Color": ImageEnhance.Color,
    "Brightness": ImageEnhance.Brightness,
    "Sharpness": ImageEnhance.Sharpness,
}


class PillowSet(Dataset[tuple[Tensor, int]]):
    """Images that are augmented one at a time.

    Args:
        pixels: uint8, shape ``(n, h, w, 3)``.
        labels: Classes, shape ``(n,)``.
        mean: Mean of each channel on the scale 0 to 1.
        std: Standard deviation of each channel on the same scale.
        crop: Pixels of padding.
        cutout: Edge of the square.
        policy: Policy of AutoAugment, or none.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        mean: list[float],
        std: list[float],
        crop: int,
        cutout: int,
        policy: str | None,
    ) -> None:
        self.pixels = pixels
        self.labels = labels
        self.mean = np.array(mean, dtype=np.float32)
        self.std = np.array(std, dtype=np.float32)
        self.fill = tuple(round(255 * value) for value in mean)
        self.crop = crop
        self.cutout = cutout
        self.policy = policy
        self.random = random.Random(0)  # noqa: S311 - nothing secret

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        draw = self.random
        image = Image.fromarray(self.pixels[index])
        if self.policy is not None:
            for operation, probability, level in draw.choice(POLICIES[self.policy]):
                if draw.random() < probability:
                    image = changed(image, operation, level, draw.choice((1, -1)), self.fill)
        width, height = image.size
        padded = ImageOps.expand(image, self.crop)
        left, top = draw.randint(0, 2 * self.crop), draw.randint(0, 2 * self.crop)
        image = padded.crop((left, top, left + width, top + height))
        if draw.random() < 0.5:
            image = ImageOps.mirror(image)
        array = np.asarray(image, dtype=np.float32) / 255
        array = (array - self.mean) / self.std
        top = draw.randrange(height) - self.cutout // 2
        left = draw.randrange(width) - self.cutout // 2
        array[max(top, 0) : top + self.cutout, max(left, 0) : left + self.cutout] = 0
        return torch.from_numpy(array.transpose(2, 0, 1)), int(self.labels[index])


def changed(
    image: Image.Image, operation: str, level: int, sign: int, fill: tuple[int, ...] | int
) -> Image.Image:
    """Return an image after an operation of AutoAugment.

    Args:
        image: The image.
        operation: Its name in the paper.
        level: 0 to 9.
        sign: 1 or -1, for geometric operations.
        fill: Color for pixels from outside.
    """
    if operation in _ENHANCE:
        return _ENHANCE[operation](image).enhance(parameter(operation, level))
    if operation == "Invert":
        return ImageOps.invert(image)
    if operation == "Solarize":
        return ImageOps.solarize(image, int(parameter(operation, level)))
    if operation == "Posterize":
        return ImageOps.posterize(image, 4 - int(level * 4 / 10))
    if operation == "AutoContrast":
        return ImageOps.autocontrast(image)
    if operation == "Equalize":
        return ImageOps.equalize(image)
    width, height = image.size
    far = sign * amount(operation, level, (height, width))
    if operation == "Rotate":
        return image.rotate(far, fillcolor=fill)
    matrix = {
        "ShearX": (1, far, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, far, 1, 0),
        "TranslateX": (1, 0, far, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, far),
    }[operation]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=fill)
