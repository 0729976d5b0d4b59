"""Splitting of images into training, validation and test, with a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from famseg.datasets.images._images import ImageSplits, ReadImages, channel_statistics
from famseg.datasets.images._split import (
    TEST_LIMIT,
    TRAIN_LIMIT,
    VALIDATION,
    held_out,
    limited,
)
from famseg.datasets.images._synthetic import synthetic_images
from famseg.messages import InputError

# Part of every fingerprint; increased when the same images and settings give another split.
_SPLIT_VERSION = 1


def split_images(
    read: ReadImages,
    *,
    validation: float,
    train_limit: int | None,
    test_limit: int | None,
    size: int | None,
    seed: int,
    settings: Mapping[str, object],
) -> ImageSplits:
    """Hold validation images out of the training files, take subsets, and hash the result.

    Args:
        read: The images of the files.
        validation: Share of the training images held out, stratified.
        train_limit: Training images to use, those held out included; None for all.
        test_limit: Test images to use; None for all.
        size: Edge in pixels that `ImageSet` resizes to; None leaves images as they are.
        seed: Decides the split and the subsets.
        settings: Other settings that determine the training data, for the fingerprint.

    Raises:
        InputError: If a class has no image to train on, or there is none to test.
    """
    pool = limited(read.train, train_limit, seed, TRAIN_LIMIT)
    train, held = held_out(pool, validation, read.classes, seed, VALIDATION)
    test = limited(read.test, test_limit, seed, TEST_LIMIT)
    if not len(test):
        raise InputError("data: there is no test image. Give a test split.")
    train, held, test = (replace(images, size=size) for images in (train, held, test))
    mean, std = channel_statistics(train.pixels)
    digest = hashlib.sha256()
    stated = {"version": _SPLIT_VERSION, "classes": read.classes, "seed": seed, **settings}
    digest.update(json.dumps(stated, sort_keys=True).encode())
    for images in (train, held, test):
        digest.update(repr((images.pixels.shape, images.size)).encode())
        for array in (images.pixels, images.labels, images.rows):
            digest.update(np.ascontiguousarray(array).data)
    return ImageSplits(train, held, test, read.classes, mean, std, digest.hexdigest())


def read_synthetic(*, classes: int, train: int, test: int, gray: bool, seed: int) -> ReadImages:
    """Draw the synthetic images.

    Args:
        classes: 10 or 100.
        train: Images to train on, validation included.
        test: Images to test on.
        gray: Whether the three channels are equal.
        seed: Random seed of the images.
    """
    draw = partial(synthetic_images, classes=classes, seed=seed, gray=gray)
    width = len(str(classes - 1))
    return ReadImages(
        draw(train, stream=0),
        draw(test, stream=1),
        tuple(f"pattern_{i:0{width}d}" for i in range(classes)),
    )
