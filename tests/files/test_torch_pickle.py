"""Files of weights from strangers: nothing of them runs, and none takes more than its size."""

from __future__ import annotations

import io
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from famseg.files._torch_pickle import NotPlainError, load_plain

Change = Callable[[str, bytes], bytes | None]
PLAIN = "contains more than tensors and plain values; none of its code was run"


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


def nested(depth: int) -> bytes:
    """A mapping whose key is a tuple of two of a tuple of two ..., so deep."""
    levels = (b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(depth))
    return b"\x80\x02})" + b"".join(levels) + b"K\x01s."


def changed(path: Path, change: Change, packing: int = zipfile.ZIP_STORED) -> Path:
    """Write a checkpoint with its parts changed."""
    torch.save({"w": torch.zeros(10)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in parts.items():
            if (new := change(name, content)) is not None:
                archive.writestr(name, new)
    return path


def fault(path: Path) -> str:
    with pytest.raises(NotPlainError) as caught:
        load_plain(path)
    assert "weights_only" not in str(caught.value), "torch's advice is to run it"
    assert str(caught.value).isprintable()
    return str(caught.value)


def pickled(content: bytes) -> Change:
    return lambda name, old: content if name.endswith(".pkl") else old


@pytest.mark.parametrize("archive", [True, False])
def test_what_was_saved_comes_back(archive: bool, tmp_path: Path) -> None:
    content = {"w": torch.arange(5.0), "n": (1, (2, "x")), "o": {0: [1.5, None, True]}}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=archive)
    found = load_plain(tmp_path / "a.pt")
    assert torch.equal(found.pop("w"), content.pop("w"))
    assert found == content


@pytest.mark.parametrize("archive", [True, False])
def test_code_is_not_run(archive: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save([Evil(mark)], tmp_path / "a.pt", _use_new_zipfile_serialization=archive)
    assert fault(tmp_path / "a.pt") == PLAIN
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Evil(mark), protocol=2))
    assert fault(tmp_path / "b.pt") == PLAIN
    assert not mark.exists()


def test_the_oldest_format_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps(Evil(tmp_path / "ran"), protocol=2)
    with tarfile.open(tmp_path / "a.pt", "w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    fault(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_packed_parts_are_not_unpacked(tmp_path: Path) -> None:
    path = changed(
        tmp_path / "a.pt",
        lambda name, old: bytes(2**26) if "/data/" in name else old,
        zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 2**17
    assert fault(path) == "its parts are compressed, which torch never does"


def test_keys_that_take_for_ever_to_hash(tmp_path: Path) -> None:
    message = "tuples nested more than 8 deep"
    assert fault(changed(tmp_path / "a.pt", pickled(nested(60)))) == message
    (tmp_path / "b.pt").write_bytes(nested(60))
    assert fault(tmp_path / "b.pt") == message
    assert len(load_plain(changed(tmp_path / "c.pt", pickled(nested(5))))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, c: None if "/data/" in n else c, "locating file data/0: file not found"),
        (lambda n, c: c.replace(b"K\n", b"\x8a\x06\0\0\0\0\0\x01"), "does not match expected size"),
        (pickled(b"\x80\x02(."), "pop from empty list"),
        (pickled(b"\x80\x02h\x07."), "7"),
        (pickled(b"\x80\x02\xff."), "unknown"),
    ],
)
def test_damaged_files(change: Change, message: str, tmp_path: Path) -> None:
    assert re.search(message, fault(changed(tmp_path / "a.pt", change)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x80\x02N."])
def test_files_of_other_kinds(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    fault(tmp_path / "a.pt")


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_plain(tmp_path / "a.pt")
