"""Configuration sections of the skull data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from famseg.config import PathText, Strict

if TYPE_CHECKING:
    from famseg.datasets.skulls._skulls import Skulls

_logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the number of finished subjects and their total."""


Flags = Annotated[tuple[str, ...], Field(strict=False)]


class _Data(Strict):
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="seed of splits, phantoms and evaluation defects; it does not depend on the "
        "seed of the run",
    )
    size: int = Field(default=64, ge=16, le=512, description="voxels along each edge of the grid")
    spacing_mm: float = Field(default=3.5, gt=0, description="edge of a voxel in mm")
    validation: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of the subjects for validation (choice of the best epoch)",
    )
    test: float = Field(default=0.25, ge=0, lt=1, description="share of the subjects for testing")
    mirror: bool = Field(
        default=False, description="swap left and right in half of the training cases"
    )
    cache: PathText | None = Field(
        default=None,
        description="folder of the cache of prepared volumes; default: FAMSEG_CACHE, or famseg in "
        "the user's cache folder",
    )

    @model_validator(mode="after")
    def _some_are_left(self) -> Any:  # noqa: ANN401
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation:g} and test {self.test:g} leave nothing to train "
                "on: together they must be below 1"
            )
        return self

    def _cache_folder(self) -> Path:
        from famseg.datasets.skulls._cache import default_cache_folder

        return Path(self.cache).expanduser() if self.cache else default_cache_folder()


class PhantomData(_Data):
    """Procedural skulls: the built-in data."""

    kind: Literal["phantom"] = "phantom"
    subjects: int = Field(default=100, ge=3, le=100_000, description="number of synthetic subjects")

    def build(self, seed: int, progress: Progress | None = None) -> Skulls:
        """Generate the phantoms, or read them from the cache.

        Args:
            seed: Decides shapes and splits.
            progress: Called with the number of finished skulls and their total.
        """
        from famseg.datasets.skulls._build import phantom_skulls

        return phantom_skulls(
            subjects=self.subjects,
            size=self.size,
            spacing_mm=self.spacing_mm,
            validation=self.validation,
            test=self.test,
            seed=seed,
            cache=self._cache_folder(),
            progress=progress,
        )


class FolderData(_Data):
    """A folder of skull masks: NIfTI, NRRD or MetaImage."""

    kind: Literal["folder"] = "folder"
    root: PathText = Field(
        min_length=1,
        description="folder of volumes, one per subject, or of sub-folders; its manifest.csv takes "
        "precedence if there is one",
    )
    pattern: str = Field(
        default="*",
        min_length=1,
        description="glob pattern of the file names to use, e.g. mask*.nii.gz",
    )
    fit: Literal["pad", "resize"] = Field(
        default="pad",
        description="pad: keep spacing_mm and pad with background; resize: scale each head to fill "
        "the grid (its spacing follows from that)",
    )
    center: Literal["head", "keep"] = Field(
        default="keep",
        description="what is centered on the grid: head (the bone) or keep (the whole volume)",
    )
    threshold: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="share of bone at and above which a resampled voxel is bone",
    )

    exclude: Flags = Field(
        default=(),
        description="flags of the manifest: subjects with one of them are also left out; those "
        "with cut_vault or existing_defect are left out by default",
    )
    include: Flags = Field(
        default=(),
        description="flags that do not exclude a subject, such as existing_defect",
    )

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, data: object) -> object:
        if not isinstance(data, dict) or "centre" not in data or "center" in data:
            return data
        _logger.warning("data.centre is now data.center; the old name works in this version only")
        return {"center" if key == "centre" else key: value for key, value in data.items()}

    def build(self, seed: int, progress: Progress | None = None) -> Skulls:
        """Read, check and prepare every volume; errors of all files come in one error.

        Args:
            seed: Decides the splits, unless the manifest does.
            progress: Called with the number of finished skulls and their total.
        """
        from famseg.datasets.skulls._build import folder_skulls

        return folder_skulls(
            Path(self.root).expanduser(),
            pattern=self.pattern,
            size=self.size,
            spacing_mm=self.spacing_mm,
            fit=self.fit,
            center=self.center,
            threshold=self.threshold,
            exclude=self.exclude,
            include=self.include,
            validation=self.validation,
            test=self.test,
            seed=seed,
            cache=self._cache_folder(),
            progress=progress,
        )


def _root_means_folder(data: object) -> object:
    """Let ``data.root=FOLDER`` replace phantoms by the user's volumes."""
    if not isinstance(data, dict) or data.get("kind") != "phantom" or "root" not in data:
        return data
    kept = {key: value for key, value in data.items() if key != "subjects"}
    return {**kept, "kind": "folder"}


DataConfig = Annotated[
    PhantomData | FolderData,
    Field(discriminator="kind"),
    BeforeValidator(_root_means_folder),
]
