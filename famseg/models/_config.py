"""Configuration sections of the networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from famseg.config import Strict
from famseg.messages import InputError

if TYPE_CHECKING:
    from famseg.models._autoencoder import ShapeAutoencoder

Positive = Annotated[int, Field(gt=0)]


class AutoencoderConfig(Strict):
    """Convolutional autoencoder with two linear layers, ``latent`` and ``expand``."""

    kind: Literal["autoencoder"] = "autoencoder"
    channels: tuple[Positive, ...] = Field(
        (32, 64, 128, 64, 8),
        strict=False,
        min_length=1,
        description="channels after each strided convolution",
    )
    strides: tuple[Positive, ...] = Field(
        (2, 2, 2, 2, 2),
        strict=False,
        min_length=1,
        description="stride of each convolution, as many as channels",
    )
    latent: int = Field(8, gt=0, description="length of the latent code")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability in the convolutions")

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        if len(self.channels) != len(self.strides):
            raise ValueError(
                f"channels and strides must have the same length, got {len(self.channels)} and "
                f"{len(self.strides)}"
            )
        return self

    def build(self, size: int) -> ShapeAutoencoder:
        """Return the network for cubes of ``size`` voxels a side."""
        from famseg.models._autoencoder import ShapeAutoencoder

        try:
            return ShapeAutoencoder(
                size=size,
                channels=self.channels,
                strides=self.strides,
                latent=self.latent,
                dropout=self.dropout,
            )
        except ValueError as error:
            raise InputError(f"model: {error}") from error
