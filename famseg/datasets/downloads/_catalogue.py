"""The public data sets that can be downloaded: addresses, sizes and published checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 2**20


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set.

    Args:
        name: Its name, the last part of its address.
        size: Bytes, for the estimate of the time.
        checksum: As published: ``md5:...`` or ``sha256:...``.
        instead: The files that it unpacks to, relative to the folder; if they exist, it is not
            needed.
        unpack: Whether it is a ZIP archive that must be unpacked for the readers.
    """

    name: str
    size: int
    checksum: str
    instead: tuple[str, ...]
    unpack: bool = False

    def needless(self, folder: Path) -> bool:
        """Whether a folder has all files that it unpacks to."""
        return all((folder / name).is_file() for name in self.instead)


@dataclass(frozen=True)
class Download:
    """A data set.

    Args:
        title: Its name for readers.
        addresses: Folders on the network that contain its files, tried in this order.
        files: What to fetch.
        config: A configuration that trains on it, with ``data.root``.
    """

    title: str
    addresses: tuple[str, ...]
    files: tuple[RemoteFile, ...]
    config: str


# The first address redirects to the second, but may disappear.
_KRIZ = ("https://www.cs.toronto.edu/~kriz", "https://cave.cs.toronto.edu/kriz")
_HOUSE_NUMBERS = ("http://ufldl.stanford.edu/housenumbers",)


def _svhn(split: str, size: int, md5: str) -> RemoteFile:
    name = f"{split}_32x32.mat"
    return RemoteFile(name, size, f"md5:{md5}", (name,))


def _fashion(name: str, size: int, md5: str) -> RemoteFile:
    return RemoteFile(f"{name}.gz", size, f"md5:{md5}", (name,))


DOWNLOADS: Mapping[str, Download] = {
    "cifar10": Download(
        "CIFAR-10",
        _KRIZ,
        (
            RemoteFile(
                "cifar-10-python.tar.gz",
                170_498_071,
                "md5:c58f30108f718f92721af3b95e74349a",
                ("cifar-10-batches-py/test_batch",),
            ),
        ),
        "classification/cifar10_baseline.yaml",
    ),
    "cifar100": Download(
        "CIFAR-100",
        _KRIZ,
        (
            RemoteFile(
                "cifar-100-python.tar.gz",
                169_001_437,
                "md5:eb9058c3a382ffc7106e4002c42a8d85",
                ("cifar-100-python/test",),
            ),
        ),
        "classification/cifar100_baseline.yaml",
    ),
    "svhn": Download(
        "SVHN, cropped digits",
        _HOUSE_NUMBERS,
        (
            _svhn("train", 182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
            _svhn("test", 64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
        ),
        "classification/svhn_baseline.yaml",
    ),
    "svhn_extra": Download(
        "SVHN, the extra training images",
        _HOUSE_NUMBERS,
        (_svhn("extra", 1_329_278_602, "a93ce644f1a588dc4d68dda5feec44a7"),),
        "classification/svhn_baseline.yaml",
    ),
    "fashionmnist": Download(
        "FashionMNIST",
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        ),
        (
            _fashion("train-images-idx3-ubyte", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            _fashion("train-labels-idx1-ubyte", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            _fashion("t10k-images-idx3-ubyte", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            _fashion("t10k-labels-idx1-ubyte", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        "classification/fashionmnist_baseline.yaml",
    ),
    "rte": Download(
        "RTE (GLUE)",
        ("https://dl.fbaipublicfiles.com/glue/data",),
        (
            RemoteFile(
                "RTE.zip",
                697_150,
                "sha256:6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee",
                ("train.tsv", "dev.tsv", "test.tsv"),
                unpack=True,
            ),
        ),
        "language/rte_baseline.yaml",
    ),
}
"""Downloads by their names in ``famseg prepare``."""


def checksum_of(path: Path, kind: str) -> str:
    """Return the checksum of a file as ``kind:hex``.

    Args:
        path: The file.
        kind: ``md5`` or ``sha256``, or a checksum that begins with it.
    """
    name = kind.partition(":")[0]
    # Most of the sets publish MD5, which detects damage but not tampering.
    digest = hashlib.new(name, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return f"{name}:{digest.hexdigest()}"
