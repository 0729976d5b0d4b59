from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from famseg.datasets import AugmentConfig
from famseg.messages import InputError


def test_every_field_is_described() -> None:
    assert all(field.description for field in AugmentConfig.model_fields.values())


def test_the_section_builds_what_it_says() -> None:
    section = AugmentConfig(crop=4, flip=True, autoaugment="svhn", cutout=16)
    augment = section.build(mean=[0.5] * 3, std=[0.2] * 3, seed=7)
    assert (augment.crop, augment.flip, augment.cutout, augment.seed) == (4, True, 16, 7)
    assert augment.policy is not None
    assert augment.policy.policy == "svhn"
    plain = AugmentConfig().build(mean=[0.5], std=[0.5], seed=0)
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    batch = plain({"image": images, "index": torch.arange(2)})
    assert batch["image"].flatten().tolist() == [-1, 1]


def test_faults() -> None:
    with pytest.raises(ValidationError, match="'none', 'cifar10' or 'svhn'"):
        AugmentConfig(autoaugment="imagenet")
    with pytest.raises(InputError, match=r"^augment: autoaugment needs images of 1 or 3 chan"):
        AugmentConfig(autoaugment="svhn").build(mean=[0.5] * 4, std=[0.5] * 4, seed=0)


def test_reading_the_section_imports_neither_torch_nor_monai() -> None:
    code = (
        "import sys; from famseg.datasets import AugmentConfig; "
        "sys.exit(bool({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
