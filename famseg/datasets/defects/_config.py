"""Configuration sections of the defects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from pydantic import Field, model_validator

from famseg.config import PathText, Strict
from famseg.datasets.defects._region import (
    LARGEST_AREA_CM2,
    LARGEST_ROUGHNESS_MM,
    WHERES,
    Spread,
    Where,
)

if TYPE_CHECKING:
    from famseg.datasets.defects._fixed_sets import FixedSet
    from famseg.datasets.defects._region import RegionDefect, SkullBreakDefect
    from famseg.datasets.defects._shapes import Defect

Range = Annotated[tuple[float, float], Field(strict=False)]
"""Two increasing numbers, written as a YAML list."""


class _Rising(Strict):
    """A section whose pairs of numbers must be increasing."""

    @model_validator(mode="after")
    def _rising(self) -> Any:  # noqa: ANN401 - Self, which mypy rejects without pydantic's plugin
        for name, value in self:
            if name != "classes" and isinstance(value, tuple) and value[0] > value[1]:
                raise ValueError(
                    f"{name}: {list(value)} must be in rising order: swap the two numbers"
                )
        return self


SizeRange = Annotated[
    Range, Field(description="smallest and largest size in mm: diameter, or edge of a box")
]
ElevationRange = Annotated[
    Range,
    Field(
        description="lowest and highest angle of the defect's center above the horizontal, in "
        "degrees, seen from the middle of the vault (90 is the vertex)"
    ),
]


class _Hole(_Rising):
    size_mm: SizeRange = (50.0, 90.0)
    elevation_deg: ElevationRange = (15.0, 90.0)

    @model_validator(mode="after")
    def _bounds(self) -> Any:  # noqa: ANN401
        if self.size_mm[0] <= 0:
            raise ValueError(f"size_mm: {list(self.size_mm)} must be above 0 mm")
        if self.elevation_deg[0] < -90 or self.elevation_deg[1] > 90:
            raise ValueError(f"elevation_deg: {list(self.elevation_deg)} must be within -90 to 90")
        return self


class SpheresConfig(_Hole):
    """A union of balls with an elastically deformed outline."""

    kind: Literal["spheres"] = "spheres"
    spheres: Annotated[
        tuple[int, int],
        Field(strict=False, description="smallest and largest number of balls in a defect"),
    ] = (3, 6)
    deformation: float = Field(
        default=0.2,
        ge=0,
        le=0.3,
        description="largest elastic displacement as a share of the radius",
    )

    @model_validator(mode="after")
    def _count(self) -> Any:  # noqa: ANN401
        if self.spheres[0] < 1 or self.spheres[1] > 64:
            raise ValueError(f"spheres: {list(self.spheres)} must be within 1 to 64")
        return self

    def build(self) -> Defect:
        """Return the generator of such defects."""
        from famseg.datasets.defects._shapes import SpheresDefect

        return SpheresDefect(self.size_mm, self.elevation_deg, self.spheres, self.deformation)


class BoxConfig(_Hole):
    """A box, turned at random."""

    kind: Literal["box"] = "box"

    def build(self) -> Defect:
        """Return the generator of such defects."""
        from famseg.datasets.defects._shapes import BoxDefect

        return BoxDefect(self.size_mm, self.elevation_deg)


class SphereConfig(_Hole):
    """A ball."""

    kind: Literal["sphere"] = "sphere"

    def build(self) -> Defect:
        """Return the generator of such defects."""
        from famseg.datasets.defects._shapes import SphereDefect

        return SphereDefect(self.size_mm, self.elevation_deg)


Classes = Annotated[tuple[Where, ...], Field(strict=False, min_length=1)]


class _Opening(_Rising):
    area_cm2: Range | None = Field(
        default=None,
        description="smallest and largest area of the defect on the outer surface in cm2; default: "
        "the range of its class",
    )
    spread: Spread = Field(
        default="uniform",
        description="distribution of the areas in area_cm2: uniform, or lognormal (small areas are "
        "more frequent; the range covers two standard deviations on either side)",
    )
    roughness_mm: float = Field(
        default=1.0,
        ge=0,
        le=LARGEST_ROUGHNESS_MM,
        description="roughness of the edge: root mean square displacement in mm",
    )

    @model_validator(mode="after")
    def _area(self) -> Any:  # noqa: ANN401
        if self.area_cm2 and not 0 < self.area_cm2[0] <= self.area_cm2[1] <= LARGEST_AREA_CM2:
            raise ValueError(
                f"area_cm2: {list(self.area_cm2)} must be above 0 and up to {LARGEST_AREA_CM2:g} "
                "cm2"
            )
        return self


class RegionConfig(_Opening):
    """A defect in a named region of the vault, with an area in cm2."""

    kind: Literal["region"] = "region"
    where: Where = Field(
        description="frontoorbital: low in front; parietotemporal: left or right; bilateral: "
        "across the midline, or one defect on each side; random_1 and random_2: anywhere"
    )

    def build(self) -> RegionDefect:
        """Return the generator of such defects."""
        from famseg.datasets.defects._region import RegionDefect

        return RegionDefect(self.where, self.area_cm2, self.spread, self.roughness_mm)


class SkullBreakConfig(_Opening):
    """A defect of one of the five classes of SkullBreak, drawn anew for each defect."""

    kind: Literal["skullbreak"] = "skullbreak"
    classes: Classes = Field(
        default=WHERES, description="classes to draw from, with equal probability"
    )

    def build(self) -> SkullBreakDefect:
        """Return the generator of such defects."""
        from famseg.datasets.defects._region import SkullBreakDefect

        return SkullBreakDefect(self.classes, self.area_cm2, self.spread, self.roughness_mm)


class FilesConfig(Strict):
    """A fixed set of defects, written by `famseg defects`."""

    kind: Literal["files"] = "files"
    root: PathText = Field(
        min_length=1, description="folder of the set, which contains defects.csv"
    )
    classes: Classes | None = Field(
        default=None, description="classes of the set to use; default: all"
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="expected SHA-256 of defects.csv; another set is an error",
    )

    def build(self) -> FixedSet:
        """Read the set and check its files."""
        from famseg.datasets.defects._fixed_sets import read_fixed_set

        return read_fixed_set(
            Path(self.root).expanduser(), classes=self.classes, sha256=self.sha256
        )


DefectConfig = Annotated[
    SpheresConfig | BoxConfig | SphereConfig | RegionConfig | SkullBreakConfig,
    Field(discriminator="kind"),
]
EvaluationDefectConfig = Annotated[
    SpheresConfig | BoxConfig | SphereConfig | RegionConfig | SkullBreakConfig | FilesConfig,
    Field(discriminator="kind"),
]


class Defects(TypedDict):
    """The generators for training and the two evaluation sets."""

    train: Defect
    set1: Defect | FixedSet
    set2: Defect | FixedSet


class DefectsConfig(Strict):
    """The defects: cut anew for training, fixed for the two evaluation sets."""

    train: DefectConfig = Field(
        default_factory=lambda: SpheresConfig(),
        description="defects in training, drawn anew in every epoch",
    )
    set1: EvaluationDefectConfig | None = Field(
        default=None, description="defects of evaluation set 1; default: like those of training"
    )
    set2: EvaluationDefectConfig = Field(
        default_factory=lambda: BoxConfig(size_mm=(30.0, 50.0), elevation_deg=(-10.0, 15.0)),
        description="defects of evaluation set 2, with another shape, size and position",
    )

    def build(self) -> Defects:
        """Return the generators of training, set 1 and set 2, or the fixed sets."""
        return {
            "train": self.train.build(),
            "set1": (self.set1 or self.train).build(),
            "set2": self.set2.build(),
        }
