"""Configuration sections of the networks that predict implants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from famseg.config import Strict
from famseg.messages import InputError

if TYPE_CHECKING:
    from famseg.models._implant_network import ImplantNetwork

Positive = Annotated[int, Field(gt=0)]


class _ImplantModel(Strict):
    channels: tuple[Positive, ...] = Field(
        (32, 64, 96, 128),
        strict=False,
        min_length=2,
        description="channels of the levels, from fine to coarse",
    )
    units: int = Field(1, gt=0, description="residual units or blocks per level")
    fold: Literal[1, 2, 4] = Field(
        2,
        description="edge in voxels of the blocks that become channels; the network computes on a "
        "grid that is coarser by it",
    )
    mirror: bool = Field(
        True, description="show the network the left-right mirror image of the skull as well"
    )

    def _build(self, kind: Literal["unet", "segresnet"], size: int) -> ImplantNetwork:
        from famseg.models._implant_network import ImplantNetwork

        try:
            return ImplantNetwork(
                kind=kind,
                size=size,
                channels=self.channels,
                units=self.units,
                fold=self.fold,
                mirror=self.mirror,
            )
        except ValueError as error:
            raise InputError(f"model: {error}") from error


class UNetConfig(_ImplantModel):
    """MONAI's UNet; its last layer is ``head``."""

    kind: Literal["unet"] = "unet"

    def build(self, size: int) -> ImplantNetwork:
        """Return the network for cubes of ``size`` voxels a side."""
        return self._build("unet", size)


class SegResNetConfig(_ImplantModel):
    """MONAI's SegResNet, which doubles its channels from level to level; it ends in ``head``."""

    kind: Literal["segresnet"]
    channels: tuple[Positive, ...] = Field(
        (32, 64, 128, 256),
        strict=False,
        min_length=2,
        description="channels of the levels, from fine to coarse, doubled from level to level",
    )

    def build(self, size: int) -> ImplantNetwork:
        """Return the network for cubes of ``size`` voxels a side."""
        return self._build("segresnet", size)


ImplantModelConfig = Annotated[UNetConfig | SegResNetConfig, Field(discriminator="kind")]
