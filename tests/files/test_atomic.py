"""Files that are written whole: what they may be read by, and what lies in their way."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

import famseg
from famseg.files._atomic import (
    fresh_part,
    open_to_read,
    open_to_update,
    remove_parts,
    write_atomically,
)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a", b"x")
        write_atomically(tmp_path / "a", b"y")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_in_the_way_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"old")
    (tmp_path / "a").symlink_to(tmp_path / "theirs")
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "theirs").read_bytes() == b"old"
    assert not (tmp_path / "a").is_symlink()


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "a", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_library_writes_by_name_is_under_one_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"old")
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "theirs")
    names = set()
    for _ in range(2):
        with fresh_part(tmp_path / "a.nii.gz", ending=".nii.gz") as part:
            part.write_bytes(b"new")
            names.add(part.name)
    assert len(names) == 2
    assert all(re.fullmatch(r"\.a\.nii\.gz\.[0-9a-f]{16}\.part\.nii\.gz", name) for name in names)
    assert (tmp_path / "theirs").read_bytes() == b"old"
    assert (tmp_path / "a.nii.gz").read_bytes() == b"new"
    assert not (tmp_path / "a.nii.gz").is_symlink()


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_is_written_in_place_is_not_one_behind_a_link(
    there: bool, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    if there:
        theirs.write_bytes(b"old")
    (tmp_path / ".lock").symlink_to(theirs)
    with pytest.raises(OSError, match=r"a symbolic link is in the way: '.*/\.lock'"):
        open_to_update(tmp_path / ".lock")
    assert theirs.exists() == there
    assert not there or theirs.read_bytes() == b"old"


def test_a_file_that_is_written_in_place_keeps_what_it_holds(tmp_path: Path) -> None:
    with open_to_update(tmp_path / "a") as file:
        file.write(b"12")
    with open_to_update(tmp_path / "a") as file:
        assert file.read(1) == b"1"
    with pytest.raises(FileNotFoundError):
        open_to_update(tmp_path / "b", create=False)
    assert not (tmp_path / "b").exists()


def test_a_pipe_in_the_way_is_refused_and_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    for open_it in (open_to_read, open_to_update):
        with pytest.raises(OSError, match=r"not a regular file: '.*/a'"):
            open_it(tmp_path / "a")


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero", "/"])
def test_what_is_no_file_is_not_opened(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(OSError, match="not a regular file"):
        open_to_read(Path(device))


def test_files_behind_links_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    with open_to_read(tmp_path / "b") as file:
        assert file.read() == b"x"


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    stay = ["last.pt", ".last.pt.part", f".best.pt.{'0' * 16}.part", f"last.pt.{'0' * 16}.part"]
    for name in (*stay, f".last.pt.{'0f' * 8}.part", f".last.pt.{'1' * 16}.part.nii.gz"):
        (tmp_path / name).touch()
    remove_parts(tmp_path / "last.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)
    remove_parts(tmp_path / "nowhere" / "last.pt")


# Places where files are written in another way, and why that is right.
ELSEWHERE = {
    "files/_atomic.py": "here it is done",
    "volumes/_volume.py": "the file that the caller names; and the null device",
    "export/_export.py": "a temporary folder of our own",
    "files/_archive.py": "a temporary folder of our own",
    "runs/_lease_file.py": "a name that must not exist, by O_EXCL",
}
WRITES = re.compile(
    r"\.write_(?:text|bytes)\(|\bopen\([^)\n]*['\"][rwax+bt]*[wax+][rwax+bt]*['\"]|\.touch\("
    r"|WriteImage\(|torch\.save\((?!model\.state_dict|.*content\))|\.save\(path|mkstemp|savefig\(path"
)


def test_every_file_is_written_by_this_module() -> None:
    """What opens a file for writing by its name follows a link that lies there."""
    package = Path(famseg.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] != "flatness"
        and WRITES.search(re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL))
    }
    assert found == set(ELSEWHERE)
