"""SVHN, cropped digits: MATLAB files of version 5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from famseg.datasets.images._files import AGAIN, check_labels, nothing_there
from famseg.datasets.images._images import Images, ReadImages
from famseg.datasets.images._mat import read_mat
from famseg.messages import InputError

Progress = Callable[[int, int], None]

_EDGE = 32
_ZERO = 10  # the label of the digit 0
_CHUNK = 1024


def read_svhn(root: Path, *, extra: bool, progress: Progress) -> ReadImages:
    """Read SVHN, with any number of images. Class ``d`` is the digit ``d``.

    Args:
        root: Folder of ``train_32x32.mat`` and ``test_32x32.mat``.
        extra: Whether ``extra_32x32.mat`` is trained on as well.
        progress: Called with the number of files read and their total.

    Raises:
        InputError: If a file is missing or damaged.
    """
    names = ["train", *(["extra"] if extra else []), "test"]
    paths = {name: root / f"{name}_32x32.mat" for name in names}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if len(missing) == len(paths):
        raise InputError(nothing_there(root, missing, what="SVHN", command="svhn"))
    if missing:
        raise InputError(
            f"{root}: {', '.join(missing)}: missing. Copy all files"
            + (", or set data.extra=false." if missing == ["extra_32x32.mat"] else ".")
        )
    parts = {}
    for done, (name, path) in enumerate(paths.items(), 1):
        parts[name] = _read_file(path)
        progress(done, len(paths))
    train = _joined(parts["train"], parts.pop("extra")) if extra else parts["train"]
    return ReadImages(train, parts["test"], tuple("0123456789"))


def _read_file(path: Path) -> Images:
    found = read_mat(path, ("X", "y"))
    pixels, labels = found["X"], found["y"]
    shape = (_EDGE, _EDGE, 3)
    if pixels.dtype != np.uint8 or pixels.shape[:-1] != shape:
        raise InputError(
            f"{path}: X is {pixels.dtype} of shape {pixels.shape}, but uint8 of shape (32, 32, 3, "
            f"n) is expected: {AGAIN}"
        )
    count = pixels.shape[-1]
    if labels.dtype.kind not in "iuf" or labels.size != count or not count:
        raise InputError(
            f"{path}: {count} images, but y is {labels.dtype} of shape {labels.shape}: {AGAIN}"
        )
    digits = labels.reshape(-1).astype(np.int64)
    check_labels(digits, 10, str(path), first=1)
    digits[digits == _ZERO] = 0
    return Images(_turned(pixels), digits, files=[(path.name, count)])


def _turned(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images with the image as the first axis instead of ``(row, column, channel, image)``.

    This is done in place if possible, since a second copy with the extra images would take 2 GB.
    """
    turned = pixels.T  # (image, channel, column, row)
    for begin in range(0, len(turned), _CHUNK):
        part = turned[begin : begin + _CHUNK]
        part[:] = part.swapaxes(2, 3).copy()
    return turned


def _joined(train: Images, extra: Images) -> Images:
    return Images(
        np.concatenate([train.pixels, extra.pixels]),
        np.concatenate([train.labels, extra.labels]),
        files=[*train.files, *extra.files],
    )
