from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import nn

from famseg.messages import InputError
from famseg.models import (
    ClassifierConfig,
    ConvNetConfig,
    EfficientNetConfig,
    MonaiConfig,
    ResNet18Config,
    WideResNetConfig,
)

SECTIONS = [ConvNetConfig, EfficientNetConfig, MonaiConfig, ResNet18Config, WideResNetConfig]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_is_described(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        assert field.description or name == "kind", f"{section.__name__}.{name}"


@pytest.mark.parametrize(
    ("values", "head"),
    [
        ({"kind": "convnet", "width": 4}, (5, 16)),
        ({"kind": "resnet18", "features": 64}, (5, 64)),
        ({"kind": "wide_resnet", "depth": 10, "width": 2, "dropout": 0.1}, (5, 128)),
        ({"kind": "efficientnet", "variant": "b0"}, (5, 1280)),
        (
            {"kind": "monai", "name": "DenseNet", "arguments": {"block_config": [1], "bn_size": 1}},
            (5, 96),
        ),
    ],
)
def test_sections_build_what_they_say(values: dict[str, object], head: tuple[int, int]) -> None:
    section = TypeAdapter(ClassifierConfig).validate_python(values)
    model = section.build(classes=5, channels=1, size=32)
    assert tuple(model.head.weight.shape) == head


@pytest.mark.parametrize(
    ("stem", "size", "kernel"),
    [("auto", 32, 3), ("auto", 64, 7), ("cifar", 64, 3), ("imagenet", 32, 7)],
)
def test_the_stem_follows_the_size(stem: str, size: int, kernel: int) -> None:
    section = ResNet18Config(kind="resnet18", stem=stem)
    first = section.build(classes=2, channels=3, size=size).body.conv1
    assert isinstance(first, nn.Conv2d)
    assert first.kernel_size == (kernel, kernel)


def test_faults_of_the_sections() -> None:
    with pytest.raises(ValidationError, match=r"depth must be 6 n \+ 4 .*, got 20"):
        WideResNetConfig(kind="wide_resnet", depth=20)
    section = MonaiConfig(kind="monai", name="DensNet")
    with pytest.raises(InputError, match=r"^model: monai.networks.nets has no network class Dens"):
        section.build(classes=2, channels=3, size=32)
    section = EfficientNetConfig(kind="efficientnet", weights="~/nowhere.pt")
    with pytest.raises(InputError, match=rf"^{Path.home()}/nowhere.pt: there is no such file"):
        section.build(classes=2, channels=3, size=32)


def test_reading_a_section_imports_neither_torch_nor_monai() -> None:
    code = (
        "import sys; from famseg.models import ClassifierConfig; "
        "sys.exit(bool({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
