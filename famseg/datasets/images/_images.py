"""Labeled images in memory, in three splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from famseg.datasets._manifest import SPLITS, Split
from famseg.files import csv_text, write_atomically

_CHUNK = 1024  # images at a time in sums that need wider numbers
_COLUMNS = ("split", "subject", "label", "class", "source")


@dataclass(frozen=True, eq=False)
class Images:
    """Labeled images of one size, held as bytes.

    Args:
        pixels: uint8, shape ``(n, channels, height, width)``.
        labels: Number of the class, int64, shape ``(n,)``.
        rows: Number of each image in the files it came from, from 0, int64, shape ``(n,)``; by
            default 0 to ``n - 1``. It names the image: a smaller subset keeps the names.
        files: Names of those files in order, each with how many images it contains.
        size: Edge in pixels that `ImageSet` resizes to; None leaves images as they are.

    Raises:
        ValueError: If the arrays do not fit together.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    files: Sequence[tuple[str, int]] = ()
    size: int | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != np.uint8:
            raise ValueError(
                "pixels must be uint8 of shape (n, channels, height, width), got "
                f"{self.pixels.dtype} of {self.pixels.shape}."
            )
        if self.labels.shape != (len(self.pixels),):
            raise ValueError(
                f"labels must have shape ({len(self.pixels)},) as there are as many images, got "
                f"{self.labels.shape}."
            )
        if not len(self.rows):
            object.__setattr__(self, "rows", np.arange(len(self.pixels)))

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def channels(self) -> int:
        """Number of color channels, 1 or 3."""
        return int(self.pixels.shape[1])

    def take(self, indices: NDArray[np.int64]) -> Images:
        """Return some of the images, copied, with the names that they have here.

        Args:
            indices: Which, int64.
        """
        return replace(
            self,
            pixels=self.pixels[indices],
            labels=self.labels[indices],
            rows=self.rows[indices],
        )

    def subject(self, index: int, prefix: str) -> str:
        """Return the name of an image, such as ``test-00017``.

        Args:
            index: Which, 0 to below ``len``.
            prefix: Name of the split.
        """
        return f"{prefix}-{self.rows[index]:05d}"

    def sources(self) -> Iterator[str]:
        """Yield the file of each image, with ``#`` and its number if a file contains several."""
        ends = np.cumsum([count for _, count in self.files], dtype=np.int64)
        for row, number in zip(self.rows, np.searchsorted(ends, self.rows, "right"), strict=True):
            if number == len(ends):
                yield ""
                continue
            name, count = self.files[number]
            yield name if count == 1 else f"{name}#{row - ends[number] + count}"


@dataclass(frozen=True, eq=False)
class ReadImages:
    """Content of the files of a data set.

    Args:
        train: The training images, validation not yet held out.
        test: The test images.
        classes: Names of the classes in the order of their numbers.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ImageSplits:
    """A labeled set of images in three splits.

    Args:
        train: Images to learn from.
        validation: Images that choose (best epoch, early stopping), held out from the training
            files; may be empty.
        test: Images that are scored once.
        classes: Names of the classes in the order of their numbers.
        mean: Mean of each channel over the pixels of ``train``, 0 to 1.
        std: Standard deviation of the same; 1 for a channel that does not vary.
        fingerprint: SHA-256 over pixels, labels, splits and settings: the same fingerprint means
            the same data.
    """

    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def channels(self) -> int:
        """Number of color channels, 1 or 3."""
        return self.train.channels

    @property
    def size(self) -> int:
        """Edge in pixels of the images that `ImageSet` returns."""
        return self.train.size or int(self.train.pixels.shape[-1])

    def split(self, name: Split) -> Images:
        """Return the images of a split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def write_manifest(self, path: Path) -> None:
        """Write the split of every image as CSV, atomically.

        The columns are split, subject, label, class, source (file and number within it).

        Args:
            path: The file; its folder must exist.
        """
        rows = (row for name in SPLITS for row in self._rows(name))
        write_atomically(path, csv_text(_COLUMNS, rows).encode())

    def _rows(self, name: Split) -> Iterator[tuple[str, str, int, str, str]]:
        images = self.split(name)
        for index, source in enumerate(images.sources()):
            label = int(images.labels[index])
            yield name, images.subject(index, name), label, self.classes[label], source


def channel_statistics(
    pixels: NDArray[np.uint8],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, on the scale 0 to 1.

    Sums are exact, so that they do not depend on the order of the images.

    Args:
        pixels: uint8, shape ``(n, channels, height, width)``, at least one image.

    Returns:
        Means and standard deviations; 1 for a channel that does not vary, by which one can divide.

    Example:
        >>> channel_statistics(np.array([0, 255], dtype=np.uint8).reshape(1, 1, 1, 2))
        ((0.5,), (0.5,))
    """
    total = np.zeros(pixels.shape[1], dtype=np.int64)
    squares = np.zeros(pixels.shape[1], dtype=np.int64)
    for begin in range(0, len(pixels), _CHUNK):
        values = pixels[begin : begin + _CHUNK].astype(np.int32)
        total += values.sum(axis=(0, 2, 3), dtype=np.int64)
        squares += np.square(values).sum(axis=(0, 2, 3), dtype=np.int64)
    count = pixels.size // pixels.shape[1]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0)) / 255
    return tuple((mean / 255).tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
