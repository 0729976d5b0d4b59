from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest
import torch

from famseg.config import InputError
from famseg.engine import load_checkpoint, save_checkpoint


def test_what_was_saved_is_loaded_and_the_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(3.0)}, "epoch": 2})
    state = load_checkpoint(path)
    assert torch.equal(state["model"]["w"], torch.arange(3.0))
    assert state["epoch"] == 2


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})

    # A limit on the size of files stands in for a full disk: the write fails half-way.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*last\.pt'"):
            save_checkpoint(path, {"epoch": 2, "model": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert load_checkpoint(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_missing_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"best\.pt: there is no such checkpoint"):
        load_checkpoint(tmp_path / "best.pt")


def test_a_truncated_checkpoint_is_said(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"last\.pt: not a readable checkpoint \("):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "last.pt"
    torch.save({"format": 1, "model": Evil()}, path)
    with pytest.raises(InputError, match=r"not a readable checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"format": 99}, path)
    with pytest.raises(InputError, match=r"not a checkpoint of format 1\. Use the famseg version"):
        load_checkpoint(path)
