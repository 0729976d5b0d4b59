"""Writes small data sets in their original formats."""

from __future__ import annotations

import gzip
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PER_FILE = 20
TEN = tuple(f"data_batch_{i}" for i in range(1, 6))
NAMES_10 = [f"class{i}" for i in range(10)]
NAMES_100 = [f"fine{i}" for i in range(100)]
NAMES_20 = [f"coarse{i}" for i in range(20)]


def drawn_images(number: int, count: int = PER_FILE) -> NDArray[np.uint8]:
    """Images of CIFAR's shape, different for each file."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def cifar10_python(folder: Path, protocol: int = 2) -> Path:
    """The folder ``cifar-10-batches-py``; labels 0 to 9 in turn."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate((*TEN, "test_batch")):
        batch = {
            b"batch_label": name.encode(),
            b"labels": [i % 10 for i in range(PER_FILE)],
            b"data": drawn_images(number).reshape(PER_FILE, -1),
            b"filenames": [b"a.png"] * PER_FILE,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    meta = {"label_names": NAMES_10, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=protocol))
    return folder


def cifar10_binary(folder: Path) -> Path:
    """The same images and labels as `cifar10_python`."""
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number, name in enumerate((*TEN, "test_batch")):
        records = b"".join(
            bytes([i % 10]) + image.tobytes() for i, image in enumerate(drawn_images(number))
        )
        (folder / f"{name}.bin").write_bytes(records)
    (folder / "batches.meta.txt").write_text("\n".join(NAMES_10) + "\n\n")
    return folder


def cifar100_python(folder: Path, count: int = 200) -> Path:
    """The folder ``cifar-100-python``; fine labels 0 to 99 in turn, coarse ones a fifth of them."""
    folder = folder / "cifar-100-python"
    folder.mkdir(parents=True)
    for number, name in enumerate(("train", "test")):
        fine = [i % 100 for i in range(count)]
        batch = {
            "data": drawn_images(number, count).reshape(count, -1),
            "fine_labels": fine,
            "coarse_labels": [label // 5 for label in fine],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {"fine_label_names": NAMES_100, "coarse_label_names": NAMES_20}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def cifar100_binary(folder: Path, count: int = 200) -> Path:
    """The same images and labels as `cifar100_python`."""
    folder = folder / "cifar-100-binary"
    folder.mkdir(parents=True)
    for number, name in enumerate(("train", "test")):
        records = b"".join(
            bytes([i % 100 // 5, i % 100]) + image.tobytes()
            for i, image in enumerate(drawn_images(number, count))
        )
        (folder / f"{name}.bin").write_bytes(records)
    (folder / "fine_label_names.txt").write_text("\n".join(NAMES_100))
    (folder / "coarse_label_names.txt").write_text("\n".join(NAMES_20))
    return folder


def svhn(folder: Path, *, compressed: bool = True, extra: bool = False) -> Path:
    """``train_32x32.mat`` and so on; labels 1 to 10 in turn."""
    import scipy.io

    folder.mkdir(parents=True, exist_ok=True)
    names = ("train", "test", "extra") if extra else ("train", "test")
    for number, name in enumerate(names):
        content = {
            "X": drawn_images(number).transpose(2, 3, 1, 0),
            "y": (np.arange(PER_FILE, dtype=np.uint8) % 10 + 1)[:, None],
        }
        scipy.io.savemat(folder / f"{name}_32x32.mat", content, do_compression=compressed)
    return folder


def idx(array: NDArray[np.uint8]) -> bytes:
    """An IDX file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def fashionmnist(folder: Path, *, packed: bool = True) -> Path:
    """The four files; labels 0 to 9 in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(("train", "t10k")):
        gray = drawn_images(number)[:, 0, 2:-2, 2:-2]
        labels = np.arange(PER_FILE, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", gray), ("labels-idx1", labels)):
            name = f"{split}-{kind}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=0))
            else:
                (folder / name).write_bytes(idx(array))
    return folder


def archive(folder: Path, name: str) -> Path:
    """Pack a folder into a ``.tar.gz`` next to it."""
    path = folder.parent / name
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    return path
