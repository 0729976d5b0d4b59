from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from pillow_augment import drawn_images, from_pillow, to_pillow
from torch import Tensor

from famseg.datasets.images import _augment_operations as operations

SHAPES = [(3, 32, 32), (1, 28, 28), (3, 17, 40)]
FACTORS = [0.0, 0.1, 0.46, 1.0, 1.36, 1.9]
Pillow = Callable[[Image.Image], Image.Image]


def same(found: Tensor, before: Tensor, pillow: Pillow) -> None:
    for image, own in zip(before, found, strict=True):
        assert torch.equal(own, from_pillow(pillow(to_pillow(image))))


@pytest.fixture(params=SHAPES, ids=str)
def batch(request: pytest.FixtureRequest) -> Tensor:
    return drawn_images(12, *request.param)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color", "Sharpness"])
def test_blends_are_pillow_s(batch: Tensor, name: str, factor: float) -> None:
    blend = getattr(operations, name.lower())
    found = blend(batch, torch.full((len(batch),), factor))
    same(found, batch, lambda image: getattr(ImageEnhance, name)(image).enhance(factor))


def test_values_are_changed_as_pillow_does(batch: Tensor) -> None:
    same(operations.autocontrast(batch), batch, ImageOps.autocontrast)
    same(operations.equalize(batch), batch, ImageOps.equalize)
    zero = torch.zeros(len(batch), dtype=torch.uint8)
    same(operations.solarize(batch, zero), batch, ImageOps.invert)
    for threshold in (1, 103, 255):
        found = operations.solarize(batch, zero + threshold)
        same(found, batch, lambda image, t=threshold: ImageOps.solarize(image, t))
    for bits in range(1, 5):
        found = operations.posterize(batch, zero + 256 - 2 ** (8 - bits))
        same(found, batch, lambda image, b=bits: ImageOps.posterize(image, b))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("name", "amounts"),
    [
        ("ShearX", [0.06, 0.12, 0.27]),
        ("ShearY", [0.15, 0.18, 0.24]),
        ("TranslateX", [0, 3, 40]),
        ("TranslateY", [1, 9]),
        ("Rotate", [0, 6, 9, 12, 27]),
    ],
)
def test_moves_are_pillow_s(batch: Tensor, name: str, amounts: list[float], sign: int) -> None:
    _, channels, height, width = batch.shape
    fill = torch.tensor([120, 7, 255][:channels], dtype=torch.uint8)
    color = tuple(fill.tolist()) if channels == 3 else int(fill)
    for amount in amounts:
        matrix = operations.matrix(name, sign * amount, (height, width))
        sources = operations.source_pixels(matrix, (height, width))
        found = operations.moved(batch, sources.expand(len(batch), -1), fill)

        def pillow(image: Image.Image, amount: float = amount) -> Image.Image:
            if name == "Rotate":
                return image.rotate(sign * amount, fillcolor=color)
            data = [1.0, 0, 0, 0, 1, 0]
            where = {"ShearX": 1, "ShearY": 3, "TranslateX": 2, "TranslateY": 5}[name]
            data[where] = sign * amount
            return image.transform(image.size, Image.Transform.AFFINE, data, fillcolor=color)

        same(found, batch, pillow)


def test_each_image_has_its_own_parameter() -> None:
    batch = drawn_images(3, 3, 8, 8)
    factors = torch.tensor([0.1, 1.0, 1.9])
    for blend in ("brightness", "contrast", "color", "sharpness"):
        together = getattr(operations, blend)(batch, factors)
        for k in range(3):
            alone = getattr(operations, blend)(batch[k : k + 1], factors[k : k + 1])
            assert torch.equal(together[k], alone[0])


def one(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(1, 1, 2, -1)


def test_by_hand() -> None:
    image = one(0, 10, 20, 100, 200, 250)
    threshold = torch.tensor([100], dtype=torch.uint8)
    assert operations.solarize(image, threshold).flatten().tolist() == [0, 10, 20, 155, 55, 5]
    mask = torch.tensor([0b11000000], dtype=torch.uint8)
    assert operations.posterize(image, mask).flatten().tolist() == [0, 0, 0, 64, 192, 192]
    assert operations.brightness(image, torch.tensor([0.5])).flatten().tolist() == [
        *(0, 5, 10),
        *(50, 100, 125),
    ]
    # The mean is 96.67, its gray 97; twice as far from it, cut off at both ends.
    assert operations.contrast(image, torch.tensor([2.0])).flatten().tolist() == [
        *(0, 0, 0),
        *(103, 255, 255),
    ]
    stretched = operations.autocontrast(one(50, 60, 101, 101))
    assert stretched.flatten().tolist() == [0, 50, 255, 255]
    shift = operations.matrix("TranslateX", 1, (2, 3))
    sources = operations.source_pixels(shift, (2, 3))
    assert sources.tolist() == [1, 2, 6, 4, 5, 6]  # 6 is outside
    fill = torch.tensor([9], dtype=torch.uint8)
    moved = operations.moved(image, sources[None], fill)
    assert moved.flatten().tolist() == [10, 20, 9, 200, 250, 9]


def test_equalize_by_hand() -> None:
    # 510 pixels below the highest value give a step of 2: half the number of pixels below.
    values = torch.cat([torch.full((255,), 10), torch.full((255,), 20), torch.full((2,), 30)])
    image = values.to(torch.uint8).view(1, 1, 2, -1)
    found = operations.equalize(image).flatten()
    assert found[:255].unique().tolist() == [0]  # (0 + 1) // 2
    assert found[255:510].unique().tolist() == [128]  # (255 + 1) // 2
    assert found[510:].unique().tolist() == [255]  # (510 + 1) // 2
