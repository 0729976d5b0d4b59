"""Configuration sections of the training data for implant networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from famseg.config import Strict
from famseg.datasets.defects import Range

if TYPE_CHECKING:
    from famseg.datasets.tasks._implants import ImplantAugmentation

Share = Annotated[float, Field(ge=0, le=1)]


class ImplantAugmentConfig(Strict):
    """Random changes of heads and defective skulls in training."""

    mirror: bool = Field(
        default=True, description="swap left and right in half of the training cases"
    )
    share: Share = Field(
        default=0.8, description="share of the training heads that are moved and deformed"
    )
    rotation_deg: float = Field(
        default=15.0,
        ge=0,
        le=90,
        description="largest rotation in degrees; pitch has half of it as standard deviation, roll "
        "and yaw a quarter",
    )
    scale: float = Field(
        default=0.04, ge=0, le=0.5, description="standard deviation of the scale along each axis"
    )
    shift_mm: float = Field(
        default=7.0, ge=0, description="largest shift to the side, front and back in mm"
    )
    top: Range | None = Field(
        default=(0.82, 0.97),
        description="heads are moved up or down so that the height of their topmost bone, as a "
        "share of the grid's edge, is in this range; null: heads keep their height",
    )
    elastic_mm: float = Field(
        default=3.5, ge=0, description="largest standard deviation of a smooth displacement in mm"
    )
    cut: Share = Field(
        default=0.5, description="share of the training cases whose face and skull base are cut off"
    )
    chips: Share = Field(
        default=0.4,
        description="share of the training cases with small holes in face and skull base",
    )

    @model_validator(mode="after")
    def _top_rises(self) -> Any:  # noqa: ANN401 - Self, which mypy rejects without pydantic's plugin
        if self.top is not None and not 0 < self.top[0] <= self.top[1] <= 1:
            raise ValueError(
                f"top: {list(self.top)} must be two shares from 0 to 1 in rising order"
            )
        return self

    def build(self) -> ImplantAugmentation:
        """Return the options of `ImplantTrainingSet`."""
        from famseg.datasets.tasks._deform import Deformation
        from famseg.datasets.tasks._implants import ImplantAugmentation

        return ImplantAugmentation(
            mirror=self.mirror,
            deformation=Deformation(
                share=self.share,
                rotation_deg=self.rotation_deg,
                scale=self.scale,
                shift_mm=self.shift_mm,
                top=self.top,
                elastic_mm=self.elastic_mm,
            ),
            cut=self.cut,
            chips=self.chips,
        )
