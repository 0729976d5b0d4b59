from __future__ import annotations

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch.utils.data import DataLoader

from famseg.datasets import (
    Cifar10Data,
    Cifar100Data,
    FashionMnistData,
    ImageDataConfig,
    ImageFolderData,
    Images,
    ImageSet,
    ImageSplits,
    SvhnData,
    SyntheticImageData,
)
from famseg.datasets.images._images import channel_statistics
from famseg.datasets.images._split import stratified
from famseg.datasets.images._synthetic import synthetic_images
from famseg.messages import InputError

SECTIONS = [
    Cifar10Data,
    Cifar100Data,
    SvhnData,
    FashionMnistData,
    ImageFolderData,
    SyntheticImageData,
]


@pytest.fixture(scope="module")
def splits() -> ImageSplits:
    return SyntheticImageData(train=200, test=50).build(0)


def test_a_image_is_a_pure_function_of_seed_stream_and_number() -> None:
    few = synthetic_images(70, classes=10, seed=3, stream=0)
    assert np.array_equal(
        few.pixels, synthetic_images(130, classes=10, seed=3, stream=0).pixels[:70]
    )
    for seed, stream in ((3, 1), (4, 0)):
        other = synthetic_images(70, classes=10, seed=seed, stream=stream).pixels
        assert not any(np.array_equal(a, b) for a, b in zip(few.pixels, other, strict=True))
    gray = synthetic_images(20, classes=10, seed=0, stream=0, gray=True).pixels.astype(int)
    assert np.abs(gray[:, 0].mean((1, 2)) - gray[:, 1].mean((1, 2))).max() < 2, "but for noise"
    with pytest.raises(ValueError, match="classes must be 10 or 100, got 20"):
        synthetic_images(2, classes=20, seed=0, stream=0)


def test_the_mean_image_does_not_tell_the_classes() -> None:
    """Class means differ only by noise: only the frequency of the stripes tells the classes."""
    drawn = synthetic_images(1000, classes=10, seed=0, stream=0)
    gray = drawn.pixels.mean(axis=1)
    means = np.stack([gray[drawn.labels == label].mean(axis=0) for label in range(10)])
    expected = gray.std(axis=0).mean() / np.sqrt(100)
    assert means.std(axis=0).mean() < 1.2 * expected
    power = np.abs(np.fft.rfft2(gray - gray.mean((1, 2), keepdims=True))) ** 2
    spectra = np.stack([power[drawn.labels == label].mean(axis=0) for label in range(10)])
    peaks = {tuple(np.argwhere(s * (s > 0) == s.max())[0]) for s in spectra / spectra.mean(axis=0)}
    assert len(peaks) == 10


@pytest.mark.parametrize("like", ["cifar10", "cifar100", "svhn", "fashionmnist"])
def test_synthetic_images_have_the_shape_of_the_real_ones(like: str) -> None:
    built = SyntheticImageData(like=like, train=400, test=100).build(0)
    assert len(built.classes) == (100 if like == "cifar100" else 10)
    assert (built.channels, built.size) == (3, 32)
    counts = [len(built.train), len(built.validation), len(built.test)]
    assert counts == [360, 40, 100]


@pytest.mark.slow
def test_a_small_network_learns_the_synthetic_images() -> None:
    built = SyntheticImageData(train=1200, test=300).build(0)
    train = ImageSet(built.train, prefix="train", mean=built.mean, std=built.std, training=False)
    test = ImageSet(built.test, prefix="test", mean=built.mean, std=built.std, training=False)
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for inner, outer in ((3, 8), (8, 16), (16, 32)):
        layers += [torch.nn.Conv2d(inner, outer, 3, 2, 1), torch.nn.GroupNorm(4, outer)]
        layers += [torch.nn.ReLU()]
    pool = torch.nn.AdaptiveAvgPool2d(1)
    model = torch.nn.Sequential(*layers, pool, torch.nn.Flatten(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for rows in torch.randperm(len(train), generator=generator).split(50):
            batch = train.__getitems__(rows.tolist())
            loss = torch.nn.functional.cross_entropy(model(batch["image"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    batch = test.__getitems__(range(len(test)))
    accuracy = (model(batch["image"]).argmax(1) == batch["label"]).float().mean()
    assert 0.6 < accuracy < 1.0


def test_draws_are_stratified_and_nested() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 50, 7]))
    before = np.empty(0, dtype=int)
    for count in (0, 1, 10, 50, 157):
        drawn = stratified(labels, count, seed=0, stream=0)
        assert len(drawn) == count
        assert (np.diff(drawn) > 0).all()
        assert set(before) <= set(drawn)
        shares = np.bincount(labels[drawn], minlength=3)
        assert np.abs(shares - count * np.array([100, 50, 7]) / 157).max() < 1
        before = drawn
    one = stratified(labels, 50, seed=0, stream=0)
    assert not np.array_equal(one, stratified(labels, 50, seed=1, stream=0))
    assert not np.array_equal(one, stratified(labels, 50, seed=0, stream=1))


def test_the_validation_images_are_held_out_of_the_training_files(splits: ImageSplits) -> None:
    assert np.bincount(splits.validation.labels).tolist() == [2] * 10
    assert sorted([*splits.train.rows, *splits.validation.rows]) == list(range(200))
    other = SyntheticImageData(train=200, test=50, validation=0.3).build(0)
    assert np.array_equal(other.test.pixels, splits.test.pixels)
    assert len(SyntheticImageData(train=200, validation=0.0).build(0).validation) == 0


def test_limits_keep_names_and_classes(splits: ImageSplits) -> None:
    data = SyntheticImageData(train=200, test=50, train_limit=60, test_limit=20)
    few = data.build(0)
    assert [len(few.train), len(few.validation), len(few.test)] == [54, 6, 20]
    assert np.bincount(few.test.labels).tolist() == [2] * 10
    for index, row in enumerate(few.test.rows):
        assert np.array_equal(few.test.pixels[index], splits.test.pixels[row])
        assert few.test.subject(index, "test") == f"test-{row:05d}"
    many = SyntheticImageData(train=200, test=50, train_limit=999, test_limit=50).build(0)
    assert np.array_equal(many.train.rows, splits.train.rows)


def test_a_class_without_a_training_image_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        SyntheticImageData(like="cifar100", train=300, train_limit=90).build(0)
    assert caught.value.faults[0].startswith("data: no image of class pattern_")
    assert caught.value.faults[0].endswith(
        "is left to train on. Give more images, a larger data.train_limit or a smaller "
        "data.validation."
    )


def test_mean_and_deviation_are_those_of_the_training_pixels(splits: ImageSplits) -> None:
    scaled = splits.train.pixels / 255
    assert np.allclose(splits.mean, scaled.mean(axis=(0, 2, 3)))
    assert np.allclose(splits.std, scaled.std(axis=(0, 2, 3)))
    assert channel_statistics(np.full((2, 1, 4, 4), 51, dtype=np.uint8)) == ((0.2,), (1.0,))


def test_the_fingerprint_covers_pixels_splits_and_settings() -> None:
    def of(seed: int = 0, **changes: object) -> str:
        values = {"train": 100, "test": 10, **changes}
        return SyntheticImageData.model_validate(values).build(seed).fingerprint

    assert of() == of()
    found = {of(), of(1), of(test=11), of(validation=0.2), of(size=64), of(like="svhn")}
    assert len(found) == 6


def test_the_manifest(splits: ImageSplits, tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    splits.write_manifest(path)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 250
    assert [row["split"] for row in rows] == ["train"] * 180 + ["validation"] * 20 + ["test"] * 50
    row = int(splits.validation.rows[3])
    assert rows[183] == {
        "split": "validation",
        "subject": f"validation-{row:05d}",
        "label": f"{row % 10}",
        "class": f"pattern_{row % 10}",
        "source": f"synthetic#{row}",
    }
    assert list(tmp_path.iterdir()) == [path]


def test_training_batches_are_bytes_and_count_epochs(splits: ImageSplits) -> None:
    items = ImageSet(splits.train, prefix="train", training=True)
    asked = [3, 180 + 3, 5 * 180 + 7]
    batch = items.__getitems__(asked)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].shape == (3, 3, 32, 32)
    assert torch.equal(batch["image"][0], batch["image"][1])
    assert np.array_equal(batch["image"][2].numpy(), splits.train.pixels[7])
    assert batch["index"].tolist() == asked
    assert batch["label"].tolist() == splits.train.labels[[3, 3, 7]].tolist()
    assert batch["label"].dtype == batch["index"].dtype == torch.int64
    assert batch["subject"][0] == batch["subject"][1] == f"train-{splits.train.rows[3]:05d}"
    batch["image"][:] = 0
    assert splits.train.pixels[3].any(), "a batch is a copy"
    with pytest.raises(IndexError, match="indices -1 to 0: 180 images"):
        items.__getitems__([0, -1])


def test_evaluation_batches_are_normalized(splits: ImageSplits) -> None:
    items = ImageSet(splits.test, prefix="test", mean=splits.mean, std=splits.std, training=False)
    assert len(items) == 50
    item = items[4]
    expected = splits.test.pixels[4] / 255 - np.array(splits.mean)[:, None, None]
    expected /= np.array(splits.std)[:, None, None]
    assert item["image"].dtype == torch.float32
    assert np.allclose(item["image"].numpy(), expected, atol=1e-5)
    assert (item["subject"], int(item["index"]), int(item["label"])) == ("test-00004", 4, 4)
    with pytest.raises(IndexError, match="indices 50 to 50: 50 images"):
        items[50]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loader_takes_ready_batches(splits: ImageSplits, workers: int) -> None:
    items = ImageSet(splits.train, prefix="train", training=True)
    loader = DataLoader(
        pickle.loads(pickle.dumps(items)),  # noqa: S301 - our own bytes
        batch_sampler=[[0, 5], [181]],
        collate_fn=_as_it_is,
        num_workers=workers,
    )
    first, second = loader
    assert first["image"].shape == (2, 3, 32, 32)
    assert second["index"].tolist() == [181]


def _as_it_is(batch: object) -> object:
    return batch


def test_images_are_resized_batch_by_batch() -> None:
    built = SyntheticImageData(train=100, test=10, size=224, validation=0.0).build(0)
    assert built.train.pixels.shape == (100, 3, 32, 32)
    assert built.size == 224
    items = ImageSet(built.train, prefix="train", training=True)
    image = items.__getitems__([0, 1])["image"]
    assert (image.dtype, image.shape) == (torch.uint8, (2, 3, 224, 224))
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(built.train.pixels[:2]).double(), (224, 224), mode="bilinear"
    )
    assert (image - exact).abs().max() <= 1
    small = SyntheticImageData(train=100, test=10, size=8, validation=0.0).build(0)
    shrunk = ImageSet(small.train, prefix="train", training=True)[0]["image"].double()
    coarse = torch.from_numpy(small.train.pixels[0]).double().unfold(1, 4, 4).unfold(2, 4, 4)
    assert (shrunk - coarse.mean((-1, -2))).abs().max() < 30, "averages, not single pixels"


def test_a_set_says_what_is_wrong(splits: ImageSplits) -> None:
    with pytest.raises(ValueError, match="at least one image: this split is empty"):
        ImageSet(splits.train.take(np.array([], dtype=int)), prefix="train", training=True)
    with pytest.raises(ValueError, match="mean and std belong to the augmentation"):
        ImageSet(splits.train, prefix="train", mean=[0.5] * 3, std=[0.5] * 3, training=True)
    with pytest.raises(ValueError, match=r"mean and std need 3 values each, got None and \[1.0\]"):
        ImageSet(splits.test, prefix="test", std=[1.0], training=False)
    with pytest.raises(ValueError, match=r"uint8 of shape .* got float64 of \(2, 3\)"):
        Images(np.zeros((2, 3)), np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\) .* got \(3,\)"):
        Images(np.zeros((2, 1, 4, 4), dtype=np.uint8), np.zeros(3, dtype=int))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_is_described(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        assert field.description or name == "kind", f"{section.__name__}.{name}"


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "svhn", "fashionmnist"])
def test_a_root_alone_turns_synthetic_images_into_real_ones(kind: str) -> None:
    adapter = TypeAdapter(ImageDataConfig)
    values = {"kind": "synthetic", "like": kind, "train": 300, "test": 100, "test_limit": 50}
    assert adapter.validate_python(values).kind == "synthetic"
    real = adapter.validate_python({**values, "root": "x", "size": 64})
    assert (real.kind, real.root, real.size, real.test_limit) == (kind, "x", 64, 50)
    assert adapter.validate_python(real.model_dump(mode="json")) == real
    assert adapter.validate_python({"kind": "synthetic", "root": "x"}).kind == "cifar10"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "cifar10"}, "Field required"),
        ({"kind": "cifar10", "root": "x", "extra": True}, "Extra inputs are not permitted"),
        ({"kind": "cifar100", "root": "x", "labels": "all"}, "Input should be 'fine' or 'coarse'"),
        ({"kind": "fashionmnist", "root": "x", "channels": 2}, "Input should be 1 or 3"),
        ({"kind": "synthetic", "validation": 1.0}, "Input should be less than 1"),
        ({"kind": "synthetic", "train_limit": 0}, "Input should be greater than or equal to 1"),
    ],
)
def test_faulty_values(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(ImageDataConfig).validate_python(values)
    assert [error["msg"] for error in caught.value.errors()] == [message]
