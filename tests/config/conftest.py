"""Small sections of a pipeline, and helpers to check documents against them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from famseg.config import Strict, read
from famseg.messages import InputError


class NoPenalty(Strict):
    kind: Literal["none"] = "none"


class FlatnessPenalty(Strict):
    kind: Literal["relative_flatness"]
    layer: str = Field(description="Dotted name of the layer, as in model.named_modules().")
    weight: float = Field(alias="lambda", ge=0)
    probes: int = Field(1, ge=1)


class Adam(Strict):
    kind: Literal["adam"]
    lr: float = Field(1e-3, gt=0)
    decay: float = Field(0.0, ge=0)


class Sgd(Strict):
    kind: Literal["sgd"]
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)


Penalty = Annotated[NoPenalty | FlatnessPenalty, Field(discriminator="kind")]


class Model(Strict):
    channels: tuple[int, ...] = Field((8, 16), min_length=1)
    size: tuple[int, int, int] = (64, 64, 64)


class Train(Strict):
    epochs: int = Field(200, ge=1)
    patience: int | None = Field(None, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    workers: int | Literal["auto"] = "auto"
    steps: list[int] | int = 3
    shuffle: bool = True

    @model_validator(mode="after")
    def _patience_below_epochs(self) -> Train:
        if self.patience is not None and self.patience > self.epochs:
            raise ValueError("patience must not exceed epochs:\nlower train.patience.")
        return self


class Config(Strict):
    pipeline: Literal["sample"]
    seed: int = Field(0, ge=0)
    name: str = Field("run", min_length=1, max_length=8, pattern="^[a-z]")
    root: Path | None = None
    model: Model = Model()
    penalty: Penalty = NoPenalty()
    optimizer: Annotated[Adam | Sgd, Field(discriminator="kind")] = Adam(kind="adam", decay=0.5)
    train: Train = Train(epochs=20)
    weights: dict[str, float] = Field(default_factory=dict)
    stages: list[Penalty] = Field(default_factory=list)


MINIMAL = "pipeline: sample\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sample() -> type[Config]:
    return Config


@pytest.fixture
def write(folder: Path) -> Callable[[str, str | bytes], str]:
    """Write a file below the working folder and return its name."""

    def _write(name: str, text: str | bytes) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return name

    return _write


@pytest.fixture
def checked(write: Callable[[str, str], str]) -> Callable[..., Config]:
    """Return the checked configuration of lines added to a minimal file ``a.yaml``."""

    def _checked(text: str, *overrides: str) -> Config:
        return read(write("a.yaml", MINIMAL + text), overrides).validate(Config)

    return _checked


@pytest.fixture
def faults(checked: Callable[..., Config]) -> Callable[..., list[str]]:
    """Return the faults of lines added to a minimal file; they start on line 2."""

    def _faults(text: str, *overrides: str) -> list[str]:
        with pytest.raises(InputError) as caught:
            checked(text, *overrides)
        return list(caught.value.faults)

    return _faults
