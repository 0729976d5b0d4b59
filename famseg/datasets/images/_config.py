"""Configuration sections of the labeled images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from famseg.config import PathText, Strict

if TYPE_CHECKING:
    from famseg.datasets.images._images import ImageSplits, ReadImages

Progress = Callable[[int, int], None]
"""Called with the number of files read and their total."""

_EMBEDDED_KEYS = ("kind", "like", "train", "test")


class _ImageData(Strict, ABC):
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="seed of the split and of subsets; it does not depend on the seed of the run",
    )
    validation: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of the training images for validation (choice of the best epoch), "
        "class by class",
    )
    train_limit: int | None = Field(
        default=None,
        ge=1,
        description="number of training images to use, including validation, class by class; for "
        "quick runs",
    )
    test_limit: int | None = Field(
        default=None,
        ge=1,
        description="number of test images to use, class by class; for quick runs",
    )
    size: int | None = Field(
        default=None,
        ge=8,
        le=1024,
        description="edge in pixels to resize images to; null: do not resize",
    )

    def build(self, seed: int, progress: Progress | None = None) -> ImageSplits:
        """Read the images and split them.

        Args:
            seed: Decides the split.
            progress: Called with the number of files read and their total.

        Raises:
            InputError: If a file is missing or damaged, or a class has no image to train on.
        """
        from famseg.datasets.images._build import split_images

        return split_images(
            self._read(seed, progress or (lambda done, of: None)),
            validation=self.validation,
            train_limit=self.train_limit,
            test_limit=self.test_limit,
            size=self.size,
            seed=seed,
            settings=self.model_dump(mode="json", exclude={"root", "seed"}),
        )

    @abstractmethod
    def _read(self, seed: int, progress: Progress) -> ReadImages: ...


class _ImageFiles(_ImageData):
    root: PathText = Field(
        min_length=1,
        description="folder of the original files or of their archive, or the archive itself",
    )

    @property
    def _folder(self) -> Path:
        return Path(self.root).expanduser()


class Cifar10Data(_ImageFiles):
    """CIFAR-10, python or binary version: 10 classes of 32 x 32 color images."""

    kind: Literal["cifar10"] = "cifar10"

    def _read(self, seed: int, progress: Progress) -> ReadImages:
        from famseg.datasets.images._cifar import read_cifar10

        return read_cifar10(self._folder, progress=progress)


class Cifar100Data(_ImageFiles):
    """CIFAR-100, python or binary version: 100 classes of 32 x 32 color images."""

    kind: Literal["cifar100"] = "cifar100"
    labels: Literal["fine", "coarse"] = Field(
        default="fine", description="fine: the 100 classes; coarse: the 20 groups of five"
    )

    def _read(self, seed: int, progress: Progress) -> ReadImages:
        from famseg.datasets.images._cifar import read_cifar100

        return read_cifar100(self._folder, labels=self.labels, progress=progress)


class SvhnData(_ImageFiles):
    """SVHN, cropped digits (format 2): house numbers, 32 x 32 in color."""

    kind: Literal["svhn"] = "svhn"
    extra: bool = Field(
        default=False, description="also train on the 531,131 easier images of extra_32x32.mat"
    )

    def _read(self, seed: int, progress: Progress) -> ReadImages:
        from famseg.datasets.images._svhn import read_svhn

        return read_svhn(self._folder, extra=self.extra, progress=progress)


class FashionMnistData(_ImageFiles):
    """FashionMNIST: 10 kinds of clothes, 28 x 28 in gray, padded to 32 x 32."""

    kind: Literal["fashionmnist"] = "fashionmnist"
    channels: Literal[1, 3] = Field(
        default=3, description="1: gray; 3: gray repeated, for networks for color images"
    )

    def _read(self, seed: int, progress: Progress) -> ReadImages:
        from famseg.datasets.images._idx import read_fashionmnist

        return read_fashionmnist(self._folder, channels=self.channels, progress=progress)


class ImageFolderData(_ImageFiles):
    """Folders of PNG or JPEG files, one per class: in train and test, or in one folder."""

    kind: Literal["image_folder"] = "image_folder"
    channels: Literal[1, 3] = Field(default=3, description="1: gray; 3: RGB")
    test: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share for testing, class by class, if there is no folder test",
    )

    def _read(self, seed: int, progress: Progress) -> ReadImages:
        from famseg.datasets.images._folder import read_image_folder

        return read_image_folder(
            self._folder,
            channels=self.channels,
            size=self.size,
            test=self.test,
            seed=seed,
            progress=progress,
        )


class SyntheticImageData(_ImageData):
    """Procedural images of 32 x 32: the embedded data."""

    kind: Literal["synthetic"] = "synthetic"
    like: Literal["cifar10", "cifar100", "svhn", "fashionmnist"] = Field(
        default="cifar10",
        description="data set whose shape and number of classes the images have; with "
        "root=FOLDER, that data set is used instead",
    )
    train: int = Field(
        default=2000,
        ge=100,
        le=1_000_000,
        description="number of training images, including validation",
    )
    test: int = Field(default=500, ge=10, le=1_000_000, description="number of test images")

    def _read(self, seed: int, progress: Progress) -> ReadImages:
        from famseg.datasets.images._build import read_synthetic

        return read_synthetic(
            classes=100 if self.like == "cifar100" else 10,
            train=self.train,
            test=self.test,
            gray=self.like == "fashionmnist",
            seed=seed,
        )


def _root_means_files(data: Any) -> Any:  # noqa: ANN401 - any value in a document
    """Let ``data.root=FOLDER`` replace synthetic images by real ones."""
    if not isinstance(data, dict) or data.get("kind") != "synthetic" or "root" not in data:
        return data
    kept = {key: value for key, value in data.items() if key not in _EMBEDDED_KEYS}
    return {**kept, "kind": data.get("like", "cifar10")}


ImageDataConfig = Annotated[
    Cifar10Data | Cifar100Data | SvhnData | FashionMnistData | ImageFolderData | SyntheticImageData,
    Field(discriminator="kind"),
    BeforeValidator(_root_means_files),
]
