"""Links at paths that famseg writes to: another user of the machine can create them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from famseg.datasets import MaskCache, SkullSubject, fetch, write_manifest
from famseg.datasets.defects._fixed_write import _Writer
from famseg.datasets.downloads._fetch import _Origin, _Part
from famseg.engine import Recorder, RunConfig, recorder_of, save_checkpoint
from famseg.files import write_atomically, write_json
from famseg.messages import InputError
from famseg.preparation.batch import Folder, alone
from famseg.runs import RunFolder
from famseg.tracking import LocalRecord, Tracker, TrackingConfig, creation_lock, prepare_store
from famseg.volumes import Volume

OLD = b"somebody's letter"


@pytest.fixture(params=["a file", "nothing"])
def trap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Create links to an existing or missing file elsewhere; check it afterwards."""
    theirs = tmp_path / "elsewhere" / "letter"
    theirs.parent.mkdir()
    if request.param == "a file":
        theirs.write_bytes(OLD)

    def lay(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(theirs)

    yield lay
    if request.param == "a file":
        assert theirs.read_bytes() == OLD
    assert len(list(theirs.parent.iterdir())) == (request.param == "a file")


def image(folder: Path) -> None:
    recorder = Recorder(RunFolder(folder), None, Tracker.null())
    recorder.image(1, np.zeros((2, 2, 3), np.uint8))


def volume(folder: Path) -> None:
    writer = _Writer(folder, None, [])  # type: ignore[arg-type]  # the settings are not used
    skull = Volume(np.ones((4, 4, 4), np.uint8), np.eye(4))
    writer._save(skull.array, skull, "complete/a.nii.gz")


def cached(folder: Path) -> None:
    MaskCache(folder).get({"a": 1}, lambda: (np.ones((2, 2, 2), np.uint8), np.eye(4)))


CACHED = f"{hashlib.sha256(json.dumps({'a': 1}).encode()).hexdigest()[:32]}.npz"
REPLACED: list[tuple[str, tuple[str, ...], Callable[[Path], object]]] = [
    ("last.pt", (".last.pt.part",), lambda f: save_checkpoint(f / "last.pt", {"a": 1})),
    ("pictures/epoch-00001.png", (), image),
    ("config.yaml", (), lambda f: write_atomically(f / "config.yaml", b"a: 1\n")),
    ("tracking.json", (), lambda f: write_json(f / "tracking.json", {})),
    (
        "manifest.csv",
        (),
        lambda f: write_manifest([SkullSubject("a", None, "")], f / "manifest.csv"),
    ),
    ("complete/a.nii.gz", (f"complete/.{os.getpid()}.part.a.nii.gz",), volume),
    (CACHED, (), cached),
    ("metrics.jsonl", (), lambda f: LocalRecord.resume(f, 0)),
]


@pytest.mark.parametrize(("name", "others", "write"), REPLACED, ids=[row[0] for row in REPLACED])
def test_a_link_under_the_name_of_a_file_is_replaced(
    name: str,
    others: tuple[str, ...],
    write: Callable[[Path], object],
    trap: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    for each in (name, *others):
        trap(folder / each)
    write(folder)
    assert not (folder / name).is_symlink()
    assert (folder / name).is_file()


def test_a_run_writes_its_configuration_through_no_link(
    trap: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    for name in ("config.yaml", "provenance.json"):
        trap(folder / name)
    monkeypatch.setattr(TrackingConfig, "build", lambda *_, **__: Tracker.null())
    experiment = SimpleNamespace(
        data_hash="", write_manifest=lambda path: None, key_metric="dsc", scores=()
    )
    config = RunConfig.model_validate(
        {"pipeline": "skull", "training": {"epochs": 1}, "penalty": {"kind": "none"}}
    )
    recorder_of(
        RunFolder(folder),
        experiment,  # type: ignore[arg-type]  # the part of it that is used
        config=config,
        device=torch.device("cpu"),
        weights=None,
        epochs=None,
    )
    for name in ("config.yaml", "provenance.json", "metrics.jsonl"):
        assert (folder / name).is_file()
        assert not (folder / name).is_symlink()


def test_a_link_under_the_name_of_the_record_is_refused(
    trap: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    trap(folder / "metrics.jsonl")
    with pytest.raises(
        InputError,
        match=r"metrics\.jsonl: cannot be written \(a symbolic link is "
        "in the",
    ):
        LocalRecord.create(folder)


def test_a_link_that_is_laid_while_a_run_goes_on_gets_no_line(
    trap: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = LocalRecord.create(tmp_path / "run")
    record.path.unlink()
    trap(record.path)
    record.append(1, {"a": 1.0})
    assert "a symbolic link is in the way" in caplog.text
    record.path.unlink()
    record.append(2, {"a": 1.0})
    assert record.path.read_bytes().count(b"\n") == 2


def test_a_link_under_the_name_of_the_stores_lock_is_refused(
    trap: Callable[[Path], None], tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    trap(tmp_path / "mlflow.db.lock")
    with pytest.raises(OSError, match="a symbolic link is in the way"), creation_lock(uri):
        pass
    with pytest.raises(InputError, match=r"cannot be opened \(a symbolic link is in the way\)"):
        prepare_store(uri)


def test_a_link_under_the_name_of_the_lock_of_prepare_is_refused(
    trap: Callable[[Path], None], tmp_path: Path
) -> None:
    trap(tmp_path / "out" / ".lock")
    message = r"--out .*/out: cannot be written to \(a symbolic link is in the way\): choose "
    "another"
    with pytest.raises(InputError, match=message), alone(Folder(tmp_path / "out")):
        pass


def test_a_download_is_written_through_no_link(
    trap: Callable[[Path], None], tmp_path: Path
) -> None:
    part = _Part(tmp_path / "data" / "a.bin.part")
    trap(part.path)
    trap(part.path.with_name("a.bin.part.json"))
    assert part.size == 0
    assert part.origin() is None
    part.begin(_Origin("http://127.0.0.1/a.bin", None, None, 3), 0)
    with part.open() as stream:
        stream.write(b"new")
    assert part.origin() is not None
    trap(tmp_path / "data" / "a.bin")
    part.finish(tmp_path / "data" / "a.bin")
    assert (tmp_path / "data" / "a.bin").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a.bin"]


def test_a_link_to_the_right_file_is_no_download(tmp_path: Path) -> None:
    """It would be renamed to the target, and its creator could change the data later."""
    content = b"published"
    (tmp_path / "theirs").write_bytes(content)
    part = _Part(tmp_path / "a.bin.part")
    part.path.symlink_to(tmp_path / "theirs")
    note = {"address": "http://127.0.0.1:9/a.bin", "etag": None, "modified": None, "total": 9}
    part.path.with_name("a.bin.part.json").write_text(json.dumps(note))
    download = partial(fetch, checksum=f"sha256:{hashlib.sha256(content).hexdigest()}")
    with pytest.raises(Exception, match="not downloaded"):
        download(
            ["http://127.0.0.1:9/a.bin"],
            tmp_path / "a.bin",
            progress=lambda *_: None,
            attempts=1,
        )
    assert not (tmp_path / "a.bin").exists()
