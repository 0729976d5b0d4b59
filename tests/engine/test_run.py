from __future__ import annotations

from pathlib import Path

import pytest

from famseg.config import InputError
from famseg.engine import new_run_folder, newest_run_folder, open_run_folder


def test_a_new_run_never_takes_the_folder_of_another(tmp_path: Path) -> None:
    names = [new_run_folder(tmp_path / "runs", "a").path.name for _ in range(3)]
    assert names == ["a", "a-2", "a-3"]


def test_the_newest_run_of_a_name_is_found_by_its_number(tmp_path: Path) -> None:
    for name in ("a", "a-2", "a-10", "a-b", "ab-11"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "a-12").mkdir()  # no configuration: not a run
    found = newest_run_folder(tmp_path, "a")
    assert found is not None
    assert found.path.name == "a-10"
    assert newest_run_folder(tmp_path, "c") is None
    assert newest_run_folder(tmp_path / "none", "a") is None


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"output: .*file: no run folder .* output=FOLDER"):
        new_run_folder(tmp_path / "file", "a")


def test_a_folder_without_configuration_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run folder"):
        open_run_folder(tmp_path)
