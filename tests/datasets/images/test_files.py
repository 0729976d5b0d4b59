from __future__ import annotations

import gzip
import os
import pickle
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from image_files import (
    NAMES_20,
    NAMES_100,
    PER_FILE,
    archive,
    cifar10_binary,
    cifar10_python,
    cifar100_binary,
    cifar100_python,
    drawn_images,
    fashionmnist,
    idx,
    svhn,
)
from PIL import Image

from famseg.datasets import (
    Cifar10Data,
    Cifar100Data,
    FashionMnistData,
    ImageFolderData,
    ImageSplits,
    SvhnData,
)
from famseg.datasets.images._config import _ImageFiles
from famseg.datasets.images._pickle import read_pickle
from famseg.messages import InputError

AGAIN = "copy or download it again"


def faults(data: _ImageFiles) -> list[str]:
    with pytest.raises(InputError) as caught:
        data.build(0)
    return [fault.replace(data.root, "ROOT") for fault in caught.value.faults]


def fault(data: _ImageFiles) -> str:
    (line,) = faults(data)
    return line


def train_in_order(splits: ImageSplits) -> tuple[np.ndarray, np.ndarray]:
    """Training images and labels, with held-out ones restored to their original positions."""
    rows = np.concatenate([splits.train.rows, splits.validation.rows])
    pixels = np.concatenate([splits.train.pixels, splits.validation.pixels])
    labels = np.concatenate([splits.train.labels, splits.validation.labels])
    order = np.argsort(rows)
    assert rows[order].tolist() == list(range(len(rows)))
    return pixels[order], labels[order]


@pytest.mark.parametrize("place", ["folder", "below", "archive", "the archive itself"])
@pytest.mark.parametrize("write", [cifar10_python, cifar10_binary])
def test_cifar10(tmp_path: Path, write: Callable[[Path], Path], place: str) -> None:
    folder = write(tmp_path)
    root = folder if place == "folder" else tmp_path
    if "archive" in place:
        kind = "python" if folder.name.endswith("py") else "binary"
        packed = archive(folder, f"cifar-10-{kind}.tar.gz")
        shutil.rmtree(folder)
        root = tmp_path if place == "archive" else packed
    seen: list[tuple[int, int]] = []
    splits = Cifar10Data(root=str(root)).build(0, progress=lambda done, of: seen.append((done, of)))
    pixels, labels = train_in_order(splits)
    assert np.array_equal(pixels, np.concatenate([drawn_images(i) for i in range(5)]))
    assert labels.tolist() == [i % 10 for i in range(PER_FILE)] * 5
    assert np.array_equal(splits.test.pixels, drawn_images(5))
    assert splits.classes == tuple(f"class{i}" for i in range(10))
    ending = ".bin" if write is cifar10_binary else ""
    assert list(splits.test.sources())[7] == f"{folder.name}/test_batch{ending}#7"
    assert seen == [(i, 7) for i in range(1, 8)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        packed.name if "archive" in place else folder.name
    ], "nothing is unpacked"


@pytest.mark.parametrize("write", [cifar100_python, cifar100_binary])
def test_cifar100_fine_and_coarse(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    write(tmp_path)
    fine = Cifar100Data(root=str(tmp_path)).build(0)
    coarse = Cifar100Data(root=str(tmp_path), labels="coarse").build(0)
    assert fine.classes == tuple(NAMES_100)
    assert coarse.classes == tuple(NAMES_20)
    assert train_in_order(fine)[1].tolist() == list(range(100)) * 2
    assert train_in_order(coarse)[1].tolist() == [i // 5 for i in range(100)] * 2
    assert np.array_equal(train_in_order(fine)[0], drawn_images(0, 200))
    assert fine.fingerprint != coarse.fingerprint


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_any_protocol(tmp_path: Path, protocol: int) -> None:
    folder = cifar10_python(tmp_path, protocol)
    found = read_pickle((folder / "data_batch_3").read_bytes(), "x")
    assert np.array_equal(found["data"], drawn_images(2).reshape(PER_FILE, -1))
    assert found["labels"][:3] == [0, 1, 2]


class Malice:
    """Runs a command on unpickling."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, exec, eval])
def test_a_malicious_pickle_runs_nothing(
    tmp_path: Path, function: Callable[..., object], protocol: int
) -> None:
    mark = tmp_path / "mark"
    code = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w').close()"
    content = pickle.dumps({"data": Malice(function, code), "labels": [0]}, protocol=protocol)
    pickle.loads(content)  # noqa: S301 - it is as bad as it looks
    assert mark.exists()
    mark.unlink()
    folder = cifar10_python(tmp_path)
    (folder / "data_batch_2").write_bytes(content)
    line = fault(Cifar10Data(root=str(folder)))
    assert line.startswith("ROOT/data_batch_2: wants to run '")
    assert f".{function.__name__}', which no file of images needs: none of its code " in line
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nload\n(S'x'\ntR.",  # a function of numpy that reads files
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",  # no mapping
        b"}(S'data'\ncnumpy\ndtype\n(S'O8'\nI0\nI1\ntRu.",  # object arrays contain pickles
        b"\x80\x02}(U\x04datacnumpy\nndarray\nu}(U\x01xU\x01yub.",  # state of a class
        b"}(S'data'\nPx\nu.",  # something kept elsewhere
    ],
)
def test_pickles_that_try_other_ways(content: bytes) -> None:
    try:
        found = read_pickle(content, "x")
    except InputError as error:
        assert str(error).startswith("x: ")  # noqa: PT017 - some are refused, none does anything
    else:
        assert not any(isinstance(value, np.ndarray) for value in found.values())


@pytest.mark.parametrize("compressed", [True, False])
def test_svhn(tmp_path: Path, compressed: bool) -> None:
    svhn(tmp_path, compressed=compressed, extra=True)
    splits = SvhnData(root=str(tmp_path)).build(0)
    pixels, labels = train_in_order(splits)
    assert np.array_equal(pixels, drawn_images(0))
    assert labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2, "10 is the digit 0"
    assert splits.classes == tuple("0123456789")
    more = SvhnData(root=str(tmp_path), extra=True).build(0)
    assert np.array_equal(
        train_in_order(more)[0], np.concatenate([drawn_images(0), drawn_images(2)])
    )
    sources = sorted({*more.train.sources(), *more.validation.sources()})
    assert sources[:2] == ["extra_32x32.mat#0", "extra_32x32.mat#1"]
    assert np.array_equal(more.test.pixels, splits.test.pixels)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
def test_fashionmnist(tmp_path: Path, packed: bool, below: str) -> None:
    fashionmnist(tmp_path / below, packed=packed)
    splits = FashionMnistData(root=str(tmp_path)).build(0)
    assert splits.train.pixels.shape[1:] == (3, 32, 32)
    assert (splits.test.pixels == splits.test.pixels[:, :1]).all()
    assert np.array_equal(splits.test.pixels[:, 0, 2:-2, 2:-2], drawn_images(1)[:, 0, 2:-2, 2:-2])
    assert not splits.test.pixels[:, :, :2].any()
    gray = FashionMnistData(root=str(tmp_path), channels=1).build(0)
    assert np.array_equal(gray.test.pixels, splits.test.pixels[:, :1])
    assert (gray.channels, gray.size) == (1, 32)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def change(path: Path, place: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content)


def repickle(path: Path, **changes: object) -> None:
    found = {**pickle.loads(path.read_bytes(), encoding="bytes")}  # noqa: S301 - our own
    found.update({key.encode(): value for key, value in changes.items()})
    path.write_bytes(pickle.dumps({k: v for k, v in found.items() if v is not None}, protocol=2))


CIFAR_FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda f: cut(f / "data_batch_4"),
        f"ROOT/data_batch_4: is not a pickle of images, or it is cut short or damaged: {AGAIN}",
    ),
    (
        lambda f: (f / "test_batch").unlink(),
        "ROOT: test_batch: missing beside data_batch_1. Copy all files.",
    ),
    (
        lambda f: repickle(f / "data_batch_2", labels=[3] * 19 + [10]),
        "ROOT/data_batch_2: image 19 has the label 10, outside 0 to 9 (1 such labels): " + AGAIN,
    ),
    (
        lambda f: repickle(f / "data_batch_2", labels=[3] * 19),
        f"ROOT/data_batch_2: 20 images, but labels is int64 of shape (19,): {AGAIN}",
    ),
    (
        lambda f: repickle(f / "data_batch_2", data=np.zeros((20, 3000), dtype=np.uint8)),
        "ROOT/data_batch_2: data is uint8 of shape (20, 3000), but uint8 of shape (n, 3072) is "
        "expected: " + AGAIN,
    ),
    (
        lambda f: repickle(f / "data_batch_2", labels=None, fine_labels=[1] * 20),
        f"ROOT/data_batch_2: does not contain labels: it is another file; {AGAIN}",
    ),
    (
        lambda f: repickle(f / "batches.meta", label_names=[b"a", b"b"]),
        f"ROOT: names 2 classes, but 10 are expected: {AGAIN}",
    ),
]


@pytest.mark.parametrize(("harm", "message"), CIFAR_FAULTS)
def test_faulty_cifar(tmp_path: Path, harm: Callable[[Path], object], message: str) -> None:
    folder = cifar10_python(tmp_path)
    harm(folder)
    assert fault(Cifar10Data(root=str(folder))) == message


def test_faulty_binary_cifar(tmp_path: Path) -> None:
    folder = cifar100_binary(tmp_path)
    change(folder / "test.bin", 3074 * 5 + 1, 100)
    assert fault(Cifar100Data(root=str(folder))) == (
        "ROOT/test.bin: image 5 has the label 100, outside 0 to 99 (1 such labels): " + AGAIN
    )
    cut(folder / "train.bin")
    assert fault(Cifar100Data(root=str(folder))) == (
        "ROOT/train.bin: has 409866 bytes, which is not a multiple of 3074 (a label and an "
        "image): it is cut short; " + AGAIN
    )


def test_nothing_there(tmp_path: Path) -> None:
    assert fault(Cifar10Data(root=str(tmp_path))) == (
        "ROOT: there is no CIFAR-10 in it: looked for cifar-10-batches-py/, cifar-10-batches-bin/, "
        "cifar-10-python.tar.gz, cifar-10-binary.tar.gz. Set data.root, or download it with: "
        "famseg "
        "prepare cifar10 --out FOLDER"
    )
    nowhere = fault(SvhnData(root=str(tmp_path / "x")))
    assert nowhere.startswith("ROOT: there is no such folder: looked for train_32x32.mat, test_32")
    (tmp_path / "file").touch()
    line = fault(FashionMnistData(root=str(tmp_path / "file")))
    assert line.startswith("ROOT: is a file, not a folder: looked for FashionMNIST/raw/, train-")


def test_faulty_archives(tmp_path: Path) -> None:
    folder = cifar10_python(tmp_path / "a")
    path = archive(folder, "cifar-10-python.tar.gz")
    whole = path.read_bytes()
    data = Cifar10Data(root=str(path))
    damaged = f"ROOT: is not a .tar.gz archive, or it is cut short or damaged: {AGAIN}"
    for content in (whole[: len(whole) // 2], whole[:-4], b"<html>", whole[:-8] + b"12345678"):
        path.write_bytes(content)
        assert fault(data) == damaged
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder / "batches.meta", "x/batches.meta")
    assert fault(data) == (
        "ROOT: data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch: "
        f"not in the archive: {AGAIN}"
    )


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    secret = cifar10_python(tmp_path / "a") / "data_batch_1"
    path = tmp_path / "cifar-10-python.tar.gz"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        with tarfile.open(path, "w:gz") as tar:
            link = tarfile.TarInfo("x/data_batch_1")
            link.type, link.linkname = kind, str(secret)
            tar.addfile(link)
        assert fault(Cifar10Data(root=str(path))) == (
            "ROOT: the archive is not safe to unpack: a member is a link or a device; do not use it"
        )


SVHN_FAULTS: list[tuple[dict[str, object], str]] = [
    ({"y": np.full((20, 1), 11)}, "image 0 has the label 11, outside 1 to 10 (20 such labels): "),
    ({"y": np.zeros((20, 1))}, "image 0 has the label 0, outside 1 to 10 (20 such labels): "),
    ({"y": np.ones((19, 1))}, "20 images, but y is float64 of shape (19, 1): "),
    (
        {"X": np.zeros((32, 32, 20), dtype=np.uint8)},
        "X is uint8 of shape (32, 32, 20), but uint8 of shape (32, 32, 3, n) is expected: ",
    ),
    ({"y": ["text"]}, "contains no array y: it is another file; "),
]


@pytest.mark.parametrize(("changes", "message"), SVHN_FAULTS)
def test_faulty_svhn(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    import scipy.io

    path = svhn(tmp_path) / "test_32x32.mat"
    content = {"X": drawn_images(1).transpose(2, 3, 1, 0), "y": np.ones((20, 1)), **changes}
    scipy.io.savemat(path, content, do_compression=True)
    assert fault(SvhnData(root=str(tmp_path))) == f"ROOT/test_32x32.mat: {message}{AGAIN}"


def test_damaged_and_missing_svhn(tmp_path: Path) -> None:
    path = svhn(tmp_path) / "train_32x32.mat"
    whole = path.read_bytes()
    wrong = bytearray(whole)
    wrong[len(wrong) // 2] ^= 255
    data = SvhnData(root=str(tmp_path))
    for content in (b"", b"<html>", whole[:100], whole[:5000], bytes(wrong)):
        path.write_bytes(content)
        message = f"is not a MATLAB file, or it is cut short or damaged: {AGAIN}"
        assert fault(data) == f"ROOT/train_32x32.mat: {message}"
    path.write_bytes(whole[:124] + b"\0\2IM" + whole[128:])
    message = f"is a MATLAB file of version 7.3, but version 5 is expected: {AGAIN}"
    assert fault(data) == f"ROOT/train_32x32.mat: {message}"
    path.unlink()
    assert fault(data) == "ROOT: train_32x32.mat: missing. Copy all files."
    svhn(tmp_path)
    assert fault(SvhnData(root=str(tmp_path), extra=True)) == (
        "ROOT: extra_32x32.mat: missing. Copy all files, or set data.extra=false."
    )


def test_damaged_matlab_files_end_in_one_line(tmp_path: Path) -> None:
    """Random bytes at random positions; scipy's reader crashes on some of them."""
    svhn(tmp_path / "packed")
    svhn(tmp_path / "plain", compressed=False)
    rng = np.random.default_rng(0)
    refused = 0
    for folder in (tmp_path / "packed", tmp_path / "plain"):
        whole = (folder / "train_32x32.mat").read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            for place in rng.integers(100, 400, 3):
                content[place] = rng.integers(256)
            (folder / "train_32x32.mat").write_bytes(content)
            try:
                SvhnData(root=str(folder)).build(0)
            except InputError as error:
                assert len(error.faults) == 1  # noqa: PT017 - some damage is harmless
                refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda f: (f / "t10k-labels-idx1-ubyte.gz").unlink(),
            "ROOT: t10k-labels-idx1-ubyte.gz: missing. Copy all files.",
        ),
        (
            lambda f: cut(f / "train-images-idx3-ubyte.gz"),
            "ROOT/train-images-idx3-ubyte.gz: is not a gzip file, or it is cut short or damaged: "
            f"{AGAIN}",
        ),
        (
            lambda f: (f / "train-images-idx3-ubyte.gz").write_bytes(
                gzip.compress(idx(drawn_images(0)[:, 0, 2:-2, 2:-2])[:-7])
            ),
            "ROOT/train-images-idx3-ubyte.gz: announces 20 x 28 x 28 bytes but has 15673: it is "
            "cut "
            f"short or damaged; {AGAIN}",
        ),
        (
            lambda f: shutil.copy(
                f / "train-labels-idx1-ubyte.gz", f / "train-images-idx3-ubyte.gz"
            ),
            "ROOT/train-images-idx3-ubyte.gz: is not an IDX file of bytes in 3 dimensions: "
            f"{AGAIN}",
        ),
        (
            lambda f: (f / "train-labels-idx1-ubyte.gz").write_bytes(
                gzip.compress(idx(np.full(20, 10, dtype=np.uint8)))
            ),
            "ROOT/train-labels-idx1-ubyte.gz: image 0 has the label 10, outside 0 to 9 (20 such "
            f"labels): {AGAIN}",
        ),
        (
            lambda f: (f / "t10k-labels-idx1-ubyte.gz").write_bytes(
                gzip.compress(idx(np.zeros(19, dtype=np.uint8)))
            ),
            "ROOT/t10k-images-idx3-ubyte.gz: 20 images, but t10k-labels-idx1-ubyte.gz has 19 "
            f"labels: {AGAIN}",
        ),
        (
            lambda f: (f / "t10k-images-idx3-ubyte.gz").write_bytes(
                gzip.compress(idx(drawn_images(0)[:, 0]))
            ),
            "ROOT/t10k-images-idx3-ubyte.gz: images of 32 x 32 pixels, but 28 x 28 are "
            "expected: it is "
            f"another file; {AGAIN}",
        ),
    ],
)
def test_faulty_fashionmnist(tmp_path: Path, harm: Callable[[Path], object], message: str) -> None:
    fashionmnist(tmp_path)
    harm(tmp_path)
    assert fault(FashionMnistData(root=str(tmp_path))) == message


def save_deep(folder: Path, channels: int) -> None:
    """Write a 16-bit PNG with several channels, which Pillow can read but not write."""
    kind = {2: 4, 3: 2, 4: 6}[channels]
    rows = (b"\0" + bytes(9 * channels * 2)) * 9
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", 9, 9, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    chunks = []
    for name, content in parts:
        checked = name + content
        chunks.append(struct.pack(">I", len(content)) + checked)
        chunks.append(struct.pack(">I", zlib.crc32(checked)))
    (folder / "train" / "dog" / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def save(path: Path, size: tuple[int, int] = (20, 16), mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def cats_and_dogs(tmp_path: Path) -> Path:
    for split, count in (("train", 10), ("test", 4)):
        for i in range(count):
            save(tmp_path / split / "dog" / f"{i}.png", seed=i)
            save(tmp_path / split / "cat" / f"{i}.jpg", (16, 24), seed=i)
    return tmp_path


def test_a_folder_of_images(cats_and_dogs: Path) -> None:
    save(cats_and_dogs / "train" / "cat" / "deeper" / "gray.PNG", mode="L")
    (cats_and_dogs / "train" / "cat" / "notes.txt").touch()
    splits = ImageFolderData(root=str(cats_and_dogs), size=16).build(0)
    assert splits.classes == ("cat", "dog")
    assert len(splits.train) + len(splits.validation) == 21
    assert np.bincount(splits.test.labels).tolist() == [4, 4]
    assert splits.train.pixels.shape[1:] == (3, 16, 16)
    assert list(splits.test.sources())[4] == "test/dog/0.png"
    with Image.open(cats_and_dogs / "test" / "dog" / "0.png") as opened:
        wanted = np.asarray(opened.crop((2, 0, 18, 16))).transpose(2, 0, 1)
    assert np.array_equal(splits.test.pixels[4], wanted), "the middle, as the height fits already"
    gray = ImageFolderData(root=str(cats_and_dogs), size=8, channels=1).build(0)
    assert gray.train.pixels.shape[1:] == (1, 8, 8)


def test_a_folder_without_a_test_split(cats_and_dogs: Path) -> None:
    data = ImageFolderData(root=str(cats_and_dogs / "train"), size=16, test=0.3)
    splits = data.build(0)
    counts = [np.bincount(s.labels).tolist() for s in (splits.test, splits.validation)]
    assert counts[0] == [3, 3]
    assert sum(counts[1]) == 1
    parts = [set(splits.split(name).sources()) for name in ("train", "validation", "test")]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 20
    assert data.build(0).fingerprint == splits.fingerprint != data.build(1).fingerprint


def test_images_of_other_kinds(tmp_path: Path) -> None:
    save(tmp_path / "a" / "palette.png", (8, 8), mode="P")
    save(tmp_path / "a" / "alpha.png", (8, 8), mode="RGBA")
    save(tmp_path / "a" / "cmyk.jpg", (8, 8), mode="CMYK")
    turned = Image.new("RGB", (8, 8))
    turned.paste((255, 255, 255), (0, 0, 8, 2))  # a bar at the top, which belongs to the right
    exif = turned.getexif()
    exif[0x0112] = 6
    (tmp_path / "b").mkdir()
    turned.save(tmp_path / "b" / "turned.jpg", exif=exif, quality=95)
    save(tmp_path / "b" / "b.png", (8, 8))
    splits = ImageFolderData(root=str(tmp_path), validation=0.0, test=0.1).build(0)
    everything = {
        source: image
        for images in (splits.train, splits.test)
        for source, image in zip(images.sources(), images.pixels, strict=True)
    }
    bar = everything["b/turned.jpg"][0]
    assert bar[:, 6:].mean() > 230
    assert bar[:, :6].mean() < 20


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda f: (f / "test" / "bird").mkdir(),
            "ROOT/test: 3 classes, but train has 2: both need the same folders (bird)",
        ),
        (
            lambda f: shutil.rmtree(f / "test"),
            "ROOT: there is no folder test beside train",
        ),
        (
            lambda f: (f / "val").mkdir(),
            "ROOT/val: famseg takes validation images from train (data.validation): "
            "move these into train, or elsewhere",
        ),
        (
            lambda f: [p.unlink() for p in (f / "test" / "cat").iterdir()],
            "ROOT/test/cat: no images (.jpeg, .jpg, .png)",
        ),
        (
            lambda f: [shutil.rmtree(f / s / "cat") for s in ("train", "test")],
            "ROOT/train: 1 folders of classes: at least 2 are needed",
        ),
        (
            lambda f: cut(f / "test" / "cat" / "2.jpg"),
            "ROOT/test/cat/2.jpg: is not a PNG or JPEG file, or it is cut short or damaged",
        ),
        (
            lambda f: Image.new("I;16", (9, 9)).save(f / "train" / "dog" / "deep.png"),
            "ROOT/train/dog/deep.png: more than 8 bits per channel: convert it to 8 bits",
        ),
        *(
            (
                partial(save_deep, channels=channels),
                "ROOT/train/dog/deep.png: more than 8 bits per channel: convert it to 8 bits",
            )
            for channels in (2, 3, 4)
        ),
    ],
)
def test_faulty_folders(cats_and_dogs: Path, harm: Callable[[Path], object], message: str) -> None:
    harm(cats_and_dogs)
    assert fault(ImageFolderData(root=str(cats_and_dogs), size=16)) == message


def test_every_faulty_image_is_named(cats_and_dogs: Path) -> None:
    for i in range(25):
        (cats_and_dogs / "train" / "cat" / f"bad{i:02d}.png").write_bytes(b"no picture")
    lines = faults(ImageFolderData(root=str(cats_and_dogs), size=16))
    assert (
        lines[0]
        == "ROOT/train/cat/bad00.png: is not a PNG or JPEG file, or it is cut short or damaged"
    )
    assert len(lines) == 21
    assert lines[-1] == "ROOT: 5 more images have errors"


def test_sizes_that_differ_need_one_size(tmp_path: Path) -> None:
    for name, size in (("a/0.png", (9, 9)), ("a/1.png", (9, 8)), ("b/0.png", (8, 8))):
        save(tmp_path / name, size)
    assert faults(ImageFolderData(root=str(tmp_path))) == [
        "ROOT/a/1.png: 9 x 8 pixels, not square: set data.size",
        "ROOT/b/0.png: 8 x 8 pixels, but others have 9 x 9: set data.size to resize all to one "
        "size",
    ]


@pytest.mark.slow
def test_real_cifar(real_data: Path) -> None:
    folder = real_data / "vision"
    if not folder.is_dir():
        pytest.skip(f"no images at {folder}")
    ten = Cifar10Data(root=str(folder / "cifar10"), train_limit=500).build(0)
    assert ten.classes[:3] == ("airplane", "automobile", "bird")
    hundred = Cifar100Data(root=str(folder / "cifar100"), labels="coarse").build(0)
    assert hundred.classes[:2] == ("aquatic_mammals", "fish")
    # Published for the whole training set: .5071, .4865, .4409.
    assert np.allclose(hundred.mean, (0.507, 0.487, 0.441), atol=0.01)


@pytest.mark.slow
def test_real_svhn(real_data: Path) -> None:
    folder = real_data / "vision" / "svhn"
    if not folder.is_dir():
        pytest.skip(f"no house numbers at {folder}")
    splits = SvhnData(root=str(folder)).build(0)
    assert train_in_order(splits)[1][:10].tolist() == [5, 2, 1, 0, 6, 1, 9, 1, 1, 8]


@pytest.mark.slow
def test_real_fashionmnist() -> None:
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("no FashionMNIST: install Debian's dataset-fashion-mnist")
    splits = FashionMnistData(root=str(folder), channels=1, train_limit=1000).build(0)
    assert (len(splits.train), len(splits.test)) == (900, 10_000)
    assert [splits.classes[i] for i in splits.test.labels[:3]] == [
        "ankle_boot",
        "pullover",
        "trouser",
    ]


@pytest.mark.parametrize("edge", [10_000, 60_000])
def test_images_of_too_many_pixels(edge: int, cats_and_dogs: Path) -> None:
    path = cats_and_dogs / "train" / "cat" / "bomb.png"
    header = b"IHDR" + struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(header))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + crc + bytes(4) + b"IDAT"
    )
    assert fault(ImageFolderData(root=str(cats_and_dogs), size=16)) == (
        "ROOT/train/cat/bomb.png: too many pixels to be an image of this kind"
    )


def test_a_image_whose_name_is_no_text(cats_and_dogs: Path) -> None:
    save(cats_and_dogs / "train" / "cat" / "\udcff.png")
    assert fault(ImageFolderData(root=str(cats_and_dogs), size=16)) == (
        r"ROOT/train/cat/\udcff.png: its name or that of a folder is not UTF-8 text: rename it"
    )
