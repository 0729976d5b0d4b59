"""Images as a torch data set that returns whole batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from famseg.datasets.images._images import Images


class ImageItem(TypedDict):
    """One image.

    ``image``: uint8 to train on, normalized float32 to evaluate, shape ``(c, h, w)``; ``label``
    and ``index`` (the requested index): int64 scalars; ``subject``: its name, such as
    ``test-00017``.
    """

    image: Tensor
    label: Tensor
    index: Tensor
    subject: str


class ImageBatch(TypedDict):
    """Several images: the tensors of `ImageItem` stacked, ``subject`` a list of names."""

    image: Tensor
    label: Tensor
    index: Tensor
    subject: list[str]


class ImageSet(Dataset[ImageItem]):
    """Images and their classes.

    ``__getitems__`` returns a ready batch, so a loader needs ``collate_fn=lambda batch: batch``.

    For training, the images remain bytes, which the augmentation normalizes, and an index of
    ``n`` or more asks for a later epoch: ``epoch, image = divmod(index, n)``. The batch's ``index``
    is the requested index, so that augmentation can be a pure function of (seed, epoch, image). For
    evaluation the images are normalized with ``mean`` and ``std``.

    Images are resized to ``images.size`` batch by batch (bilinear with antialiasing, rounded to
    bytes), never the whole set at once.

    Args:
        images: The images of a split; at least one.
        prefix: Name of the split, in front of the images' numbers.
        mean: Mean of each channel on the scale 0 to 1; only for evaluation.
        std: Standard deviation of each channel on the same scale; only for evaluation.
        training: Whether the images are trained on.

    Raises:
        ValueError: If there is no image, or ``mean`` and ``std`` do not fit.
    """

    def __init__(
        self,
        images: Images,
        *,
        prefix: str,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        training: bool,
    ) -> None:
        if not len(images):
            raise ValueError("a data set needs at least one image: this split is empty.")
        if training and (mean is not None or std is not None):
            raise ValueError(
                "training images are kept as bytes: mean and std belong to the augmentation."
            )
        if not training and not len(mean or ()) == len(std or ()) == images.channels:
            raise ValueError(
                f"for evaluation, mean and std need {images.channels} values each, got {mean} and "
                f"{std}."
            )
        self.images = images
        self.prefix = prefix
        self.training = training
        self._mean = torch.tensor(mean or ()).view(-1, 1, 1) * 255
        self._std = torch.tensor(std or ()).view(-1, 1, 1) * 255

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageItem:
        batch = self.__getitems__([index])
        return {
            "image": batch["image"][0],
            "label": batch["label"][0],
            "index": batch["index"][0],
            "subject": batch["subject"][0],
        }

    def __getitems__(self, indices: Sequence[int]) -> ImageBatch:
        """Return the batch of some indices."""
        asked = np.asarray(indices, dtype=np.int64)
        if (asked < 0).any() or (not self.training and (asked >= len(self)).any()):
            raise IndexError(f"indices {asked.min()} to {asked.max()}: {len(self)} images.")
        rows = asked % len(self)
        image = self._resized(torch.from_numpy(self.images.pixels[rows]))
        if not self.training:
            image = image.float().sub_(self._mean).div_(self._std)
        return {
            "image": image,
            "label": torch.from_numpy(self.images.labels[rows]),
            "index": torch.from_numpy(asked),
            "subject": [self.images.subject(row, self.prefix) for row in rows],
        }

    def _resized(self, pixels: Tensor) -> Tensor:
        size = self.images.size
        if size is None or pixels.shape[-2:] == (size, size):
            return pixels
        return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
