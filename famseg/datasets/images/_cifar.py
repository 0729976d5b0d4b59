"""Reading of CIFAR-10 and CIFAR-100 in their Python and binary versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from famseg.datasets.images._files import AGAIN, Layout, Place, check_labels, find_layout
from famseg.datasets.images._images import Images, ReadImages
from famseg.datasets.images._pickle import read_pickle
from famseg.messages import InputError

Progress = Callable[[int, int], None]
Part = tuple[NDArray[np.uint8], NDArray[np.int64]]

_EDGE = 32
_BYTES = 3 * _EDGE * _EDGE  # per image: red, then green, then blue, each by row

_TEN = tuple(f"data_batch_{i}" for i in range(1, 6))
_CIFAR10 = (
    Layout("cifar-10-batches-py", "cifar-10-python.tar.gz", (*_TEN, "test_batch", "batches.meta")),
    Layout(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        (*(f"{name}.bin" for name in _TEN), "test_batch.bin", "batches.meta.txt"),
    ),
)
_CIFAR100 = (
    Layout("cifar-100-python", "cifar-100-python.tar.gz", ("train", "test", "meta")),
    Layout(
        "cifar-100-binary",
        "cifar-100-binary.tar.gz",
        ("train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt"),
    ),
)


def read_cifar10(root: Path, *, progress: Progress) -> ReadImages:
    """Read CIFAR-10, with any number of images.

    Args:
        root: Folder of ``data_batch_1`` and so on, of ``cifar-10-batches-py`` or
            ``cifar-10-batches-bin``, or of the archive of either; or that archive.
        progress: Called with the number of files read and their total.

    Raises:
        InputError: If a file is missing or damaged.
    """
    place = find_layout(root, _CIFAR10, what="CIFAR-10", command="cifar10")
    return _read(place, classes=10, key="labels", label_bytes=1, column=0, progress=progress)


def read_cifar100(
    root: Path, *, labels: Literal["fine", "coarse"], progress: Progress
) -> ReadImages:
    """Read CIFAR-100, with any number of images.

    Args:
        root: Folder of ``train``, ``test`` and ``meta``, of ``cifar-100-python`` or
            ``cifar-100-binary``, or of the archive of either; or that archive.
        labels: The 100 classes, or the 20 groups of five.
        progress: Called with the number of files read and their total.

    Raises:
        InputError: If a file is missing or damaged.
    """
    place = find_layout(root, _CIFAR100, what="CIFAR-100", command="cifar100")
    return _read(
        place,
        classes=100 if labels == "fine" else 20,
        key=f"{labels}_labels",
        label_bytes=2,
        column=1 if labels == "fine" else 0,  # each record begins with the coarse one
        progress=progress,
    )


def _read(
    place: Place, *, classes: int, key: str, label_bytes: int, column: int, progress: Progress
) -> ReadImages:
    parts: dict[str, Part] = {}
    names: tuple[str, ...] = ()
    for done, (name, content) in enumerate(place.contents(), 1):
        where = place.where(name)
        if name in ("meta", "batches.meta"):
            names = _pickled_names(content, f"{key.removesuffix('s')}_names", where)
        elif name.endswith(".txt"):
            if name in ("batches.meta.txt", f"{key.removesuffix('s')}_names.txt"):
                names = tuple(content.decode("latin1").split())
        elif name.endswith(".bin"):
            parts[name] = _binary(content, label_bytes, column, where)
        else:
            parts[name] = _pickled(content, key, where)
        if name in parts:
            check_labels(parts[name][1], classes, where)
        progress(done, len(place.layout.files))
    if len(names) != classes:
        raise InputError(
            f"{place.path}: names {len(names)} classes, but {classes} are expected: {AGAIN}"
        )
    train = [name for name in place.layout.files if name in parts and "test" not in name]
    test = [name for name in place.layout.files if name in parts and "test" in name]
    return ReadImages(
        _joined(parts, train, place.layout), _joined(parts, test, place.layout), names
    )


def _joined(parts: dict[str, Part], names: Sequence[str], layout: Layout) -> Images:
    chosen = [parts.pop(name) for name in names]
    files = [
        (f"{layout.folder}/{name}", len(labels))
        for name, (_, labels) in zip(names, chosen, strict=True)
    ]
    pixels = np.concatenate([pixels for pixels, _ in chosen])
    return Images(pixels, np.concatenate([labels for _, labels in chosen]), files=files)


def _pickled(content: bytes, key: str, where: str) -> Part:
    found = read_pickle(content, where)
    missing = [name for name in ("data", key) if name not in found]
    if missing:
        raise InputError(
            f"{where}: does not contain {', '.join(missing)}: it is another file; {AGAIN}"
        )
    pixels, labels = np.asarray(found["data"]), np.asarray(found[key])
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _BYTES:
        raise InputError(
            f"{where}: data is {pixels.dtype} of shape {pixels.shape}, but uint8 of shape (n, "
            f"{_BYTES}) is expected: {AGAIN}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(pixels),) or not len(pixels):
        raise InputError(
            f"{where}: {len(pixels)} images, but {key} is {labels.dtype} of shape {labels.shape}:"
            f" {AGAIN}"
        )
    return pixels.reshape(-1, 3, _EDGE, _EDGE), labels.astype(np.int64)


def _pickled_names(content: bytes, key: str, where: str) -> tuple[str, ...]:
    names = read_pickle(content, where).get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: does not contain {key}: it is another file; {AGAIN}")
    return tuple(names)


def _binary(content: bytes, label_bytes: int, column: int, where: str) -> Part:
    record = label_bytes + _BYTES
    if not content or len(content) % record:
        raise InputError(
            f"{where}: has {len(content)} bytes, which is not a multiple of {record} (a label and "
            f"an image): it is cut short; {AGAIN}"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    pixels = records[:, label_bytes:].reshape(-1, 3, _EDGE, _EDGE)
    return pixels, records[:, column].astype(np.int64)
