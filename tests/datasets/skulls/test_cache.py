from __future__ import annotations

import multiprocessing
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bounded import cost

from famseg.datasets import MaskCache, default_cache_folder

KEY = {"sha256": "1", "size": 5}


def prepared(value: int = 1) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((5, 5, 5), dtype=np.uint8)
    mask[1, 2, value] = 1
    return mask, np.diag([1.0, 2.0, 3.0, 1.0])


def refuse() -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError("prepared again")


def test_a_second_time_comes_from_the_folder(tmp_path: Path) -> None:
    first = MaskCache(tmp_path / "c").get(KEY, prepared)
    mask, affine = MaskCache(tmp_path / "c").get(KEY, refuse)
    assert np.array_equal(mask, first[0])
    assert mask.dtype == np.uint8
    assert np.array_equal(affine, first[1])


def test_another_key_is_another_item(tmp_path: Path) -> None:
    cache = MaskCache(tmp_path)
    cache.get(KEY, prepared)
    other = cache.get({**KEY, "size": 6}, lambda: prepared(3))
    assert other[0][1, 2, 3] == 1
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nothing", None])
def test_a_damaged_file_is_made_again(damage: bytes | None, tmp_path: Path) -> None:
    cache = MaskCache(tmp_path)
    cache.get(KEY, prepared)
    file = next(tmp_path.iterdir())
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    mask, _ = cache.get(KEY, prepared)
    assert np.array_equal(mask, prepared()[0])
    assert np.array_equal(MaskCache(tmp_path).get(KEY, refuse)[0], mask)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("code from the cache was run",)


def test_nothing_in_a_cache_is_unpickled(tmp_path: Path) -> None:
    cache = MaskCache(tmp_path)
    cache.get(KEY, prepared)
    file = next(tmp_path.iterdir())
    array = np.array([Bomb()], dtype=object)
    with file.open("wb") as stream:
        np.savez(stream, bits=array, shape=np.array([5, 5, 5]), affine=np.eye(4))
    assert np.array_equal(cache.get(KEY, prepared)[0], prepared()[0])
    file.write_bytes(pickle.dumps(Bomb()))
    assert np.array_equal(cache.get(KEY, prepared)[0], prepared()[0])


def test_a_failed_preparation_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        MaskCache(tmp_path / "c").get(KEY, refuse)
    assert not (tmp_path / "c").exists()


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = MaskCache(blocked / "cache")
    with pytest.warns(UserWarning, match="continuing without a cache") as caught:
        mask, _ = cache.get(KEY, prepared)
    assert np.array_equal(mask, prepared()[0])
    assert str(caught[0].message) == (
        f"{blocked / 'cache'}: cannot be written (Not a directory): continuing without a cache; "
        "set "
        "data.cache or FAMSEG_CACHE to another folder"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.get(KEY, prepared)


def _fill(folder: Path, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    for item in range(20):
        mask, _ = MaskCache(folder).get({"item": item}, lambda item=item: prepared(item % 5))
        assert mask[1, 2, item % 5] == 1


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    workers = [context.Process(target=_fill, args=(tmp_path, start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 20, "no partial file is left"


def test_where_caches_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAMSEG_CACHE", str(tmp_path / "f"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_cache_folder() == tmp_path / "f"
    monkeypatch.delenv("FAMSEG_CACHE")
    assert default_cache_folder() == tmp_path / "x" / "famseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "famseg"


def test_a_packed_file_is_not_unpacked(tmp_path: Path) -> None:
    cache, key = MaskCache(tmp_path), {"item": 1}
    cache.get(key, prepared)
    (path,) = tmp_path.iterdir()
    with np.load(path) as stored:
        np.savez_compressed(path, **{**stored, "bits": np.zeros(2**28, np.uint8)})
    assert path.stat().st_size < 2**19
    found = cost(lambda: cache.get(key, prepared))
    assert found.fault is None, "prepared anew"
    assert found.mib < 50


@pytest.mark.parametrize(
    "header", ["{'descr': '|O', 'fortran_order': False, 'shape': (3,)}", "[" * 9000, "{'descr': "]
)
def test_hostile_headers_count_as_none(header: str, tmp_path: Path) -> None:
    cache, key = MaskCache(tmp_path), {"item": 1}
    cache.get(key, prepared)
    (path,) = tmp_path.iterdir()
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("shape.npy", start + header.encode() + b"\n" + pickle.dumps([1, 2, 3]))
    assert cache.get(key, prepared)[0].shape == prepared()[0].shape


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ([1500] * 3, np.eye(4)),  # 4 bytes that claim 3 GiB
        ([2**31] * 3, np.eye(4)),
        ([2**40, 2**40, 0], np.eye(4)),
        ([-5, -5, 5], np.eye(4)),
        ([1.5, 1.5, 4.0], np.eye(4)),
        ([[4, 4]], np.eye(4)),
        ([2, 2, 2], np.eye(4)),  # 8 voxels in 4 bytes
        ([4, 4, 2], np.eye(3)),
    ],
)
def test_a_file_that_announces_what_it_does_not_hold_counts_as_none(
    shape: list[float], affine: np.ndarray, tmp_path: Path
) -> None:
    cache, key = MaskCache(tmp_path), {"item": 1}
    cache.get(key, prepared)
    (path,) = tmp_path.iterdir()
    np.savez(path, bits=np.zeros(4, np.uint8), shape=np.array(shape), affine=affine)
    found = cost(lambda: cache.get(key, prepared))
    assert found.fault is None, "prepared anew"
    assert found.mib < 50
    assert np.array_equal(cache.get(key, refuse)[0], prepared()[0])


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    cache = MaskCache(tmp_path)
    cache.get(KEY, prepared)
    (path,) = tmp_path.iterdir()
    path.unlink()
    os.mkfifo(path)
    assert np.array_equal(cache.get(KEY, prepared)[0], prepared()[0])
