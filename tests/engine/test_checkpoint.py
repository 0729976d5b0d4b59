from __future__ import annotations

import os
import resource
import signal
import zipfile
from pathlib import Path

import pytest
import torch

from famseg.engine import load_checkpoint, save_checkpoint
from famseg.engine._checkpoint import DamagedCheckpointError, keep_epoch, keep_previous
from famseg.messages import InputError

_ENTRY = 46  # bytes of an entry of the directory before the name
_ATTRIBUTES = 38  # place of the attributes in it


def test_what_was_saved_is_loaded_and_the_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(3.0)}, "epoch": 2})
    state = load_checkpoint(path)
    assert torch.equal(state["model"]["w"], torch.arange(3.0))
    assert state["epoch"] == 2


def test_no_bit_of_the_archives_directory_changes_a_weight(tmp_path: Path) -> None:
    """Its bits count in no checksum; one of them makes a folder of a tensor, read as nothing."""
    path, weight = tmp_path / "last.pt", torch.arange(1.0, 500.0)
    save_checkpoint(path, {"model": {"w": weight}})
    content = path.read_bytes()
    name = max(zipfile.ZipFile(path).infolist(), key=lambda part: part.file_size).filename.encode()
    entry = content.rindex(name) - _ENTRY
    assert content[entry : entry + 4] == b"PK\1\2"
    refused = 0
    for bit in range(8 * (_ENTRY + len(name))):
        changed = bytearray(content)
        changed[entry + bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            assert torch.equal(load_checkpoint(path)["model"]["w"], weight), f"bit {bit}"
        except InputError:
            refused += 1
    assert refused > 100
    # What torch takes for the weights here is what lies in memory, as a rule the same ones again.
    changed = bytearray(content)
    changed[entry + _ATTRIBUTES] ^= 0x10
    path.write_bytes(changed)
    with pytest.raises(DamagedCheckpointError, match="one of its parts is marked as a folder"):
        load_checkpoint(path)


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


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "last.pt"
    if kind == "pipe":
        os.mkfifo(path)  # would wait for its other end
    elif kind == "device":
        path.symlink_to("/dev/zero")  # would never end
    else:
        path.mkdir()
    with pytest.raises(DamagedCheckpointError, match=r"checkpoint \(not a regular file\)"):
        load_checkpoint(path)


def flip_a_bit(path: Path) -> None:
    """Flip an exponent bit of a weight in the largest part of a checkpoint."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda each: each.file_size)
    lengths = data[member.header_offset + 26 : member.header_offset + 30]
    name, extra = (int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
    data[member.header_offset + 30 + name + extra + 3] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "others", "advice"),
    [
        ("last.pt", [], r"Copy the file again from where it came, or train again\."),
        ("last.pt", ["previous.pt"], r"previous\.pt beside it .* --resume takes it, or copy it"),
        ("best.pt", ["last.pt"], r"Use the end of the training, --checkpoint last, or train again"),
    ],
)
def test_a_flipped_bit_is_found_and_what_to_do_is_said(
    tmp_path: Path, name: str, others: list[str], advice: str
) -> None:
    for each in (name, *others):
        save_checkpoint(tmp_path / each, {"model": {"w": torch.ones(1000)}})
    flip_a_bit(tmp_path / name)
    assert torch.load(tmp_path / name)["model"]["w"][0] > 1e37  # nothing is said by torch
    message = (
        rf"{name}: not a readable checkpoint \(the checksum of its part \S+ is wrong: .*{advice}"
    )
    with pytest.raises(DamagedCheckpointError, match=message):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("links", [True, False])
def test_the_checkpoint_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError("no hard links here")

        monkeypatch.setattr("os.link", refuse)
    last = tmp_path / "last.pt"
    for epoch in range(3):
        keep_previous(last)
        save_checkpoint(last, {"epoch": epoch})
    assert load_checkpoint(last)["epoch"] == 2
    assert load_checkpoint(tmp_path / "previous.pt")["epoch"] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.pt", "previous.pt"]
    keep_previous(last)
    keep_previous(last)  # both are one file now
    names = {file.name for file in tmp_path.iterdir()}
    assert names == ({"last.pt", "previous.pt"} if links else {"previous.pt"})
    assert load_checkpoint(tmp_path / "previous.pt")["epoch"] == 2


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(
    ("last", "every", "kept"),
    [(1, None, []), (3, None, [4, 5, 6]), (1, 2, [2, 4, 6]), (2, 4, [4, 5, 6]), (1, 7, [])],
)
def test_checkpoints_of_epochs_are_kept_and_removed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    links: bool,
    last: int,
    every: int | None,
    kept: list[int],
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError("no hard links here")

        monkeypatch.setattr("os.link", refuse)
    (tmp_path / "epoch-of-mine.pt").touch()
    path = tmp_path / "last.pt"
    for epoch in range(1, 7):
        save_checkpoint(path, {"epoch": epoch})
        keep_epoch(path, epoch, last=last, every=every)
        keep_epoch(path, epoch, last=last, every=every)  # as after a kill just behind it
    names = [f"epoch-{epoch:05d}.pt" for epoch in kept]
    found = sorted(file.name for file in tmp_path.iterdir())
    assert found == [*names, "epoch-of-mine.pt", "last.pt"]
    assert [load_checkpoint(tmp_path / name)["epoch"] for name in names] == kept
