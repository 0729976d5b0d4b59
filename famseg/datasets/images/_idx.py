"""Reading of FashionMNIST: IDX files, plain or compressed with gzip."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from famseg.datasets.images._files import AGAIN, check_labels, nothing_there, read_bytes
from famseg.datasets.images._images import Images, ReadImages
from famseg.messages import InputError

Progress = Callable[[int, int], None]

CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle_boot",
)
_EDGE = 28
_PAD = 2  # to 32 x 32, the size that networks for CIFAR require
_FOLDER = "FashionMNIST/raw"
_UNSIGNED_BYTES = 8  # type code in an IDX file


def read_fashionmnist(root: Path, *, channels: Literal[1, 3], progress: Progress) -> ReadImages:
    """Read FashionMNIST, padded with black to 32 x 32, with any number of images.

    Args:
        root: Folder of ``train-images-idx3-ubyte.gz`` and so on, or of ``FashionMNIST/raw``.
        channels: 1 for gray, 3 for the same three times.
        progress: Called with the number of files read and their total.

    Raises:
        InputError: If a file is missing or damaged.
    """
    kinds = ("images-idx3", "labels-idx1")
    names = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in kinds]
    found = {name: _find(root, name) for name in names}
    missing = [f"{name}.gz" for name, path in found.items() if path is None]
    if len(missing) == len(names):
        looked = [f"{_FOLDER}/", *missing]
        raise InputError(nothing_there(root, looked, what="FashionMNIST", command="fashionmnist"))
    if missing:
        raise InputError(f"{root}: {', '.join(missing)}: missing. Copy all files.")
    arrays: list[tuple[Path, NDArray[np.uint8]]] = []
    for done, path in enumerate(found.values(), 1):
        if path is not None:
            arrays.append((path, _read_idx(path, 3 if "images" in path.name else 1)))
        progress(done, len(names))
    train, test = (_images(*pair, channels=channels) for pair in (arrays[:2], arrays[2:]))
    return ReadImages(train, test, CLASSES)


def _find(root: Path, name: str) -> Path | None:
    for folder in (root, root / _FOLDER):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    content = read_bytes(path)
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, _UNSIGNED_BYTES, dimensions]) or len(content) < header:
        raise InputError(f"{path}: is not an IDX file of bytes in {dimensions} dimensions: {AGAIN}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if math.prod(shape) != len(content) - header:
        raise InputError(
            f"{path}: announces {' x '.join(map(str, shape))} bytes but has "
            f"{len(content) - header}: it is cut short or damaged; {AGAIN}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _images(
    images: tuple[Path, NDArray[np.uint8]],
    labels: tuple[Path, NDArray[np.uint8]],
    *,
    channels: int,
) -> Images:
    path, pixels = images
    if pixels.shape[1:] != (_EDGE, _EDGE):
        raise InputError(
            f"{path}: images of {pixels.shape[1]} x {pixels.shape[2]} pixels, but {_EDGE} x "
            f"{_EDGE} are expected: it is another file; {AGAIN}"
        )
    if len(pixels) != len(labels[1]) or not len(pixels):
        raise InputError(
            f"{path}: {len(pixels)} images, but {labels[0].name} has {len(labels[1])} labels: "
            f"{AGAIN}"
        )
    numbers = labels[1].astype(np.int64)
    check_labels(numbers, len(CLASSES), str(labels[0]))
    edge = _EDGE + 2 * _PAD
    padded = np.zeros((len(pixels), channels, edge, edge), dtype=np.uint8)
    padded[:, :, _PAD:-_PAD, _PAD:-_PAD] = pixels[:, None]
    return Images(padded, numbers, files=[(path.name, len(pixels))])
