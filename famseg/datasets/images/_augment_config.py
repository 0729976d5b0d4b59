"""Configuration section of the augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from famseg.config import Strict
from famseg.messages import InputError

if TYPE_CHECKING:
    from famseg.datasets.images._augment import Augmentation


class AugmentConfig(Strict):
    """Random changes of training images, drawn anew in each epoch, before normalization."""

    crop: int = Field(
        0,
        ge=0,
        le=512,
        description="random crop of the image padded by that many pixels of zeros; 0: none",
    )
    flip: bool = Field(False, description="flip left and right in half of the draws")
    autoaugment: Literal["none", "cifar10", "svhn"] = Field(
        "none", description="policy of AutoAugment (Cubuk et al. 2019), before all else"
    )
    cutout: int = Field(
        0,
        ge=0,
        le=4096,
        description="edge in pixels of a square anywhere that is filled with the mean; 0: none",
    )

    def build(self, *, mean: Sequence[float], std: Sequence[float], seed: int) -> Augmentation:
        """Return the function that turns a batch of bytes into normalized floats.

        Args:
            mean: Mean of each channel on the scale 0 to 1.
            std: Standard deviation of each channel on the same scale.
            seed: Random seed; with the index of an image it determines the changes.

        Raises:
            InputError: If the number of channels is not supported by AutoAugment.
        """
        from famseg.datasets.images._augment import Augmentation

        try:
            return Augmentation(
                mean=mean,
                std=std,
                seed=seed,
                crop=self.crop,
                flip=self.flip,
                autoaugment=self.autoaugment,
                cutout=self.cutout,
            )
        except ValueError as error:
            raise InputError(f"augment: {error}") from error
