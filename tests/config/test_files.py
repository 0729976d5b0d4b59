from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from famseg.config import _files as files
from famseg.config import find_config
from famseg.messages import InputError


@pytest.fixture
def shipped(tmp_path_factory, monkeypatch):
    """Test configurations in place of the shipped ones, which may change."""
    root = tmp_path_factory.mktemp("shipped")
    for name in ("skull.yaml", "language.yml", "smoke/skull.yaml"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("pipeline: skull\n")
    monkeypatch.setattr(files, "shipped_folder", lambda: root)
    return root


def refusal(name):
    with pytest.raises(InputError) as caught:
        find_config(name)
    (line,) = caught.value.faults
    return line


@pytest.mark.parametrize("name", ["skull", "skull.yaml", "configs/skull", "configs/skull.yaml"])
def test_a_shipped_configuration_is_found_from_any_folder(folder, shipped, name):
    assert find_config(name) == shipped / "skull.yaml"


@pytest.mark.parametrize("name", ["smoke/skull", "smoke/skull.yaml", "configs/smoke/skull.yaml"])
def test_a_shipped_configuration_is_found_in_its_folder(folder, shipped, name):
    assert find_config(name) == shipped / "smoke" / "skull.yaml"


def test_both_suffixes_may_be_left_out(folder, shipped):
    assert find_config("language") == shipped / "language.yml"


def test_nearer_files_win(folder, shipped, write):
    write("configs/skull.yaml", "")
    assert find_config("skull") == Path("configs/skull.yaml")
    write("skull.yaml", "")
    assert find_config("skull") == Path("skull.yaml")
    assert find_config(str(folder / "configs" / "skull.yaml")) == folder / "configs/skull.yaml"


def test_a_folder_of_the_name_is_no_obstacle(folder, shipped):
    (folder / "skull").mkdir()
    assert find_config("skull") == shipped / "skull.yaml"


def test_what_extends_may_have_the_name_of_what_it_extends(folder, shipped, write):
    own = Path(write("skull.yaml", ""))
    assert files.search("skull.yaml", beside=own) == shipped / "skull.yaml"


def test_the_folder_of_the_extending_file_comes_first(folder, shipped, write):
    write("skull.yaml", "")
    write("deep/skull.yaml", "")
    beside = folder / "deep" / "own.yaml"
    assert files.search("skull", beside=beside) == folder / "deep" / "skull.yaml"
    assert files.search("../skull", beside=beside) == folder / "skull.yaml"


def test_a_name_that_is_not_there_lists_near_names(folder, shipped):
    assert refusal("skul.yaml") == (
        "skul.yaml: there is no such configuration. Did you mean skull.yaml? Looked in the "
        "working folder, "
        f"in configs/ below it and in {shipped}."
    )
    assert "Did you mean smoke/skull?" in refusal("smoke/skul")
    assert "Did you mean smoke/skull?" in refusal("configs/smoke/skul")


def test_a_name_like_no_other_lists_all(folder, shipped, write):
    write("configs/own.yaml", "")
    assert "Known: own.yaml, skull.yaml, smoke/skull.yaml." in refusal("qqqq")


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name(folder, shipped, name):
    assert refusal(name) == "the name of the configuration is empty. Give a file."


def test_a_folder(folder, shipped):
    assert refusal(str(folder)) == f"{folder}: is a folder. Give the file in it."


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "a\nb", "\udcff"])
def test_odd_names_are_one_line(folder, shipped, name):
    line = refusal(name)
    assert "no such configuration" in line
    assert line.isprintable()


def test_text_of_windows_editors_is_read(folder, write):
    assert files.read_text(Path(write("a.yaml", b"\xef\xbb\xbfa: 1\r\n"))) == "a: 1\r\n"


def test_other_encodings_are_refused_with_the_line(folder, write):
    write("a.yaml", b"a: 1\nb: \xe9\n")
    with pytest.raises(InputError, match=r"^a.yaml:2: not UTF-8 text. Save the file as UTF-8.$"):
        files.read_text(Path("a.yaml"))


def test_a_huge_file_is_not_read_to_its_end(folder, write):
    write("a.yaml", "é" * 2_000_000)
    assert len(files.read_text(Path("a.yaml"))) < 600_000


def test_a_file_that_vanished():
    with pytest.raises(InputError, match=r"^no/a.yaml: cannot be read: No such file or directory"):
        files.read_text(Path("no/a.yaml"))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs file modes")
def test_a_file_without_permission(folder, write):
    Path(write("a.yaml", "a: 1")).chmod(0)
    with pytest.raises(InputError, match=r"^a.yaml: cannot be read: Permission denied"):
        files.read_text(Path("a.yaml"))


def test_paths_are_shown_as_users_know_them(folder):
    assert files.shown(Path("configs/a.yaml")) == "configs/a.yaml"
    assert files.shown(folder / "configs" / "a.yaml") == "configs/a.yaml"
    assert files.shown(Path("/elsewhere/a.yaml")) == "/elsewhere/a.yaml"


def test_the_shipped_folder_is_that_of_the_wheel_or_the_checkout():
    assert files.shipped_folder().name in ("_configs", "configs")


def test_a_pipe_is_refused_and_not_waited_for(folder, shipped):
    os.mkfifo(folder / "a.yaml")
    path = files.find_config("a")
    with pytest.raises(InputError, match=r"^a\.yaml: cannot be read: not a regular file\. Check"):
        files.read_text(path)


def test_only_near_names_are_near_and_many_are_listed_by_folder(folder, shipped, write):
    assert "Did you mean" not in refusal("qqqq.yaml")  # the extension does not count
    for number in range(30):
        write(f"configs/many/n{number}.yaml", "")
    assert "Known: skull.yaml, many/... (30), smoke/... (1)." in refusal("qqqq")
