"""Stratified splits and subsets of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from famseg.datasets.images._images import Images
from famseg.messages import InputError

TRAIN_LIMIT, TEST_LIMIT, VALIDATION, TEST, SUBSET = range(5)
"""Random streams: independent draws with one seed."""


def stratified(labels: NDArray[np.int64], count: int, seed: int, stream: int) -> NDArray[np.int64]:
    """Draw a stratified sample: every class contributes its share, up to one item.

    A larger sample contains every smaller one: the first 100 of 200 are the sample of 100.

    Args:
        labels: The class of each image.
        count: Number of items to draw, 0 to ``len(labels)``.
        seed: Random seed of the draw.
        stream: Number of the random stream of the seed.

    Returns:
        Indices of the drawn items, in increasing order.

    Example:
        >>> labels = np.array([0] * 80 + [1] * 20)
        >>> np.bincount(labels[stratified(labels, 10, seed=0, stream=0)]).tolist()
        [8, 2]
    """
    chance = np.random.default_rng([seed, stream]).random(len(labels))
    order = np.lexsort((chance, labels))  # by class, in random order within each
    sizes = np.bincount(labels)
    begins = np.cumsum(sizes) - sizes
    rank = np.arange(len(labels)) - begins[labels[order]]
    # Ranks are spread evenly from 0 to 1 in every class; the lowest ones are drawn.
    place = (rank + 0.5) / sizes[labels[order]]
    return np.sort(order[np.lexsort((chance[order], place))[:count]])


def limited(images: Images, limit: int | None, seed: int, stream: int = SUBSET) -> Images:
    """Return a stratified subset of at most ``limit`` images; all images for None.

    Args:
        images: Images to draw from.
        limit: Largest number of images.
        seed: Random seed of the subset.
        stream: Number of the random stream of the seed.
    """
    if limit is None or limit >= len(images):
        return images
    return images.take(stratified(images.labels, limit, seed, stream))


def held_out(
    images: Images, share: float, classes: Sequence[str], seed: int, stream: int
) -> tuple[Images, Images]:
    """Hold out a stratified share, and check that every class keeps an image.

    Args:
        images: Images to split.
        share: Share that is held out, 0 to below 1; above 0 at least one image.
        classes: Names of the classes.
        seed: Random seed of the split.
        stream: ``VALIDATION`` or ``TEST``.

    Returns:
        The remaining and the held-out images, both in the given order.

    Raises:
        InputError: If a class has no image left.
    """
    count = max(round(share * len(images)), 1) if share > 0 else 0
    drawn = stratified(images.labels, min(count, len(images)), seed, stream)
    kept = np.ones(len(images), dtype=bool)
    kept[drawn] = False
    left = np.bincount(images.labels[kept], minlength=len(classes))
    if not left.all():
        key = "test" if stream == TEST else "validation"
        empty = classes[int(np.argmin(left))]
        raise InputError(
            f"data: no image of class {empty} is left to train on. Give more images, a larger "
            f"data.train_limit or a smaller data.{key}."
        )
    return images.take(np.flatnonzero(kept)), images.take(drawn)
