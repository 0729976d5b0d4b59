from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pillow_augment import drawn_images
from torch import Tensor
from torch.nn import functional as F

from famseg.datasets import Augmentation

MEAN, STD = [0.25, 0.5, 0.75], [0.5, 0.25, 0.125]
PLAIN = {"mean": [0.0], "std": [1 / 255]}  # leaves the values of one channel unchanged
ALL = {"crop": 4, "flip": True, "autoaugment": "cifar10", "cutout": 16}


def batch_of(images: Tensor, start: int = 0) -> dict[str, Any]:
    return {"image": images, "index": torch.arange(start, start + len(images))}


def excess(counts: Tensor) -> float:
    """Return by how many standard deviations a chi-square statistic lies above its mean."""
    expected, freedom = counts.sum() / counts.numel(), counts.numel() - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return ((statistic - freedom) / (2 * freedom) ** 0.5).item()


def test_without_options_bytes_are_normalized_and_the_rest_stays() -> None:
    images = drawn_images(6, 3, 4, 5)
    batch = {**batch_of(images), "label": torch.arange(6), "subject": ["a"] * 6}
    before = images.clone()
    result = Augmentation(mean=MEAN, std=STD, seed=0)(batch)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert result["image"].dtype == torch.float32
    torch.testing.assert_close(result["image"], (images.float() / 255 - mean) / std)
    assert result["label"] is batch["label"]
    assert result["subject"] is batch["subject"]
    assert batch["image"] is images
    assert torch.equal(images, before)


@pytest.mark.parametrize("flip", [False, True])
def test_crops_and_flips_are_slices_and_all_are_equally_likely(flip: bool) -> None:
    p, h, w = 2, 5, 7
    image = torch.arange(1, h * w + 1, dtype=torch.uint8).view(1, h, w)
    padded = np.pad(image.numpy(), ((0, 0), (p, p), (p, p)))
    slices = {}
    for y in range(2 * p + 1):
        for x in range(2 * p + 1):
            crop = padded[:, y : y + h, x : x + w]
            slices[crop.tobytes()] = len(slices)
            if flip:
                slices[crop[:, :, ::-1].tobytes()] = len(slices)
    n = 100 * len(slices)
    augment = Augmentation(**PLAIN, seed=4, crop=p, flip=flip)
    found = augment(batch_of(image.expand(n, 1, h, w)))["image"].to(torch.uint8)
    drawn = torch.tensor([slices[one.numpy().tobytes()] for one in found])
    assert abs(excess(torch.bincount(drawn, minlength=len(slices)).double())) < 4


def test_a_flip_alone_keeps_every_pixel() -> None:
    images = drawn_images(200, 3, 6, 8)
    found = Augmentation(mean=[0] * 3, std=[1 / 255] * 3, seed=0, flip=True)(batch_of(images))
    flipped = [
        torch.equal(own, image.flip(-1).float())
        for own, image in zip(found["image"], images, strict=True)
    ]
    kept = [
        torch.equal(own, image.float()) for own, image in zip(found["image"], images, strict=True)
    ]
    assert all(a or b for a, b in zip(flipped, kept, strict=True))
    assert 70 < sum(flipped) - sum(a and b for a, b in zip(flipped, kept, strict=True)) < 130


@pytest.mark.parametrize("edge", [1, 4, 5])
def test_cutout_is_a_square_of_the_mean_with_its_center_anywhere(edge: int) -> None:
    h, w = 6, 8
    squares = {}
    for y in range(h):
        for x in range(w):
            mask = np.ones((h, w), dtype=bool)
            top, left = y - edge // 2, x - edge // 2
            mask[max(top, 0) : max(top + edge, 0), max(left, 0) : max(left + edge, 0)] = False
            squares[mask.tobytes()] = len(squares)
    assert len(squares) == h * w  # no two centers leave the same
    augment = Augmentation(mean=[0.5, 0.5], std=[0.1, 0.1], seed=1, cutout=edge)
    result = augment(batch_of(torch.zeros(h * w * 100, 2, h, w, dtype=torch.uint8)))["image"]
    assert torch.equal(result[:, 0], result[:, 1])
    drawn = torch.tensor([squares[one.numpy().tobytes()] for one in result[:, 0] != 0])
    assert abs(excess(torch.bincount(drawn, minlength=len(squares)).double())) < 4


def test_what_happens_depends_on_seed_and_index_alone() -> None:
    images = drawn_images(40, 3, 32, 32)
    augment = Augmentation(mean=MEAN, std=STD, seed=3, **ALL)
    batch = batch_of(images, start=1000)
    whole = augment(batch)["image"]
    assert whole.dtype == torch.float32
    assert torch.equal(augment(batch)["image"], whole)
    assert torch.equal(Augmentation(mean=MEAN, std=STD, seed=3, **ALL)(batch)["image"], whole)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:11]
    part = {key: value[order] for key, value in batch.items()}
    assert torch.equal(augment(part)["image"], whole[order])
    last = images.to(memory_format=torch.channels_last)
    assert torch.equal(augment({**batch, "image": last})["image"], whole)
    for other in (
        Augmentation(mean=MEAN, std=STD, seed=4, **ALL)(batch)["image"],
        augment(batch_of(images, start=1040))["image"],  # the next epoch
    ):
        assert (other != whole).flatten(1).any(1).all()
    # Global random state is neither used nor changed.
    torch.manual_seed(0)
    state = torch.get_rng_state()
    augment(batch)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_option_leaves_the_draws_of_the_others_alone() -> None:
    images = drawn_images(30, 1, 8, 8)
    options = {"mean": [0.5], "std": [0.2], "seed": 0}
    cropped = Augmentation(**options, crop=2)(batch_of(images))["image"]
    cut = Augmentation(**options, cutout=4)(batch_of(images))["image"]
    both = Augmentation(**options, crop=2, cutout=4)(batch_of(images))["image"]
    ones = torch.full_like(images, 255)
    kept = Augmentation(**options, cutout=4)(batch_of(ones))["image"] != 0
    assert torch.equal(both, cropped * kept)
    assert torch.equal(cut, cut * kept)


def test_autoaugment_comes_before_the_crop_and_cutout_after_all() -> None:
    # Inverting black gives white; padding and square are unchanged.
    images = torch.zeros(400, 1, 8, 8, dtype=torch.uint8)
    options = {"mean": [0.5], "std": [0.5], "seed": 0, "autoaugment": "svhn"}
    alone = Augmentation(**options)(batch_of(images))["image"]
    white = (alone == 1).flatten(1).all(1)
    assert 20 < white.sum() < 300
    result = Augmentation(**options, crop=3, cutout=3)(batch_of(images))["image"][white]
    inside = Augmentation(mean=[0.5], std=[0.5], seed=0, crop=3, cutout=3)(
        batch_of(torch.full_like(images, 255))
    )["image"][white]
    assert torch.equal(result, inside)


@pytest.mark.cuda
def test_a_gpu_makes_the_same_images() -> None:
    images = drawn_images(60, 3, 32, 32)
    for policy in ("svhn", "cifar10"):
        augment = Augmentation(mean=MEAN, std=STD, seed=3, **(ALL | {"autoaugment": policy}))
        batch = batch_of(images)
        moved = {key: value.cuda() for key, value in batch.items()}
        found = augment(moved)["image"]
        assert found.is_cuda
        assert torch.equal(found.cpu(), augment(batch)["image"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(2, 3, 4, 4)}, r"must be uint8 of shape \(n, 3, h, w\), got torch.f"),
        ({"image": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, r"of shape \(2, 1, 4, 4\)\."),
        (
            {"index": torch.zeros(3, dtype=torch.int64)},
            r"int64 of shape \(2,\), got torch.int64 of",
        ),
        ({"index": torch.zeros(2)}, r"got torch.float32 of shape \(2,\)\."),
    ],
)
def test_faulty_batches_are_refused(change: dict[str, Tensor], message: str) -> None:
    batch = batch_of(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)) | change
    with pytest.raises(ValueError, match=message):
        Augmentation(mean=MEAN, std=STD, seed=0)(batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mean": [0.5, 0.5]},
            r"mean and std need one value per channel, std above 0, got \[0.5, 0",
        ),
        ({"std": [0.0, 0.1, 0.1]}, "std above 0"),
        ({"crop": -1}, "seed, crop and cutout must be 0 or more, got 0, -1 and 0"),
    ],
)
def test_faulty_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**{"mean": MEAN, "std": STD, "seed": 0, **options})


def test_a_loop_over_padded_batches_matches_a_plain_crop() -> None:
    # Large padding and an image smaller than it: runs of bytes must not cross images.
    images = drawn_images(5, 3, 2, 3)
    found = Augmentation(mean=[0] * 3, std=[1 / 255] * 3, seed=0, crop=6, flip=True)
    result = found(batch_of(images))["image"]
    padded = F.pad(images.float(), [6] * 4)
    both = torch.stack((padded, padded.flip(3)))
    windows = both.unfold(3, 2, 1).unfold(4, 3, 1)  # (2, n, 3, 13, 13, 2, 3)
    for k in range(5):
        hits = (windows[:, k] == result[k][None, :, None, None]).all(-1).all(-1).all(1)
        assert hits.any()
