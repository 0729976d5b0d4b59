from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from famseg.messages import InputError
from famseg.runs import (
    BusyError,
    RunFolder,
    claim_new_run,
    claim_run,
    lease,
    open_run_folder,
    remove_empty_runs,
    run_folders,
)


def begun(output: Path, *names: str) -> None:
    for name in names:
        (output / name).mkdir(parents=True)
        (output / name / "config.yaml").touch()


def dead_lease(folder: Path) -> None:
    """Leave what a killed process leaves that owned the folder."""
    with lease(folder) as held:
        assert held.path is not None
        text = held.path.read_text()
    (folder / "lease-3.json").write_text(text.replace('"started": ', '"started": 1'))


def test_a_new_run_never_takes_the_folder_of_another(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        folder, held = claim_new_run(tmp_path / "runs", "a")
        names.append(folder.path.name)
        folder.config.touch()
        held.release()
    assert names == ["a", "a-2", "a-3"]


def test_a_new_run_never_takes_the_folder_of_one_that_begins(tmp_path: Path) -> None:
    _, first = claim_new_run(tmp_path, "a")
    _, second = claim_new_run(tmp_path, "a")
    with first, second:
        assert (first.folder.name, second.folder.name) == ("a", "a-2")


def test_a_run_with_a_place_of_its_own_is_begun_by_one_process(tmp_path: Path) -> None:
    place = tmp_path / "trials" / "a"
    folder, first = claim_run(place)
    with first, pytest.raises(BusyError):
        claim_run(place)
    folder.provenance.touch()  # of a start that was killed
    folder, second = claim_run(place)
    assert not folder.provenance.exists()
    folder.config.touch()
    folder.provenance.touch()
    second.release()
    folder, third = claim_run(place)
    third.release()
    assert folder.provenance.exists()  # there is a run now


def test_a_folder_with_something_else_does_not_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="is not empty and not a run folder"):
        claim_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_runs_of_a_name_are_found_by_their_numbers(tmp_path: Path) -> None:
    begun(tmp_path, "a", "a-2", "a-10", "a-epochs6-lr0.1", "a-epochs6-3", "ab-11", "a-012")
    (tmp_path / "a-12").mkdir()
    (tmp_path / "a-12" / "notes.txt").touch()  # somebody's: not a run
    names = [found.path.name for found in run_folders(tmp_path, "a")]
    assert names == ["a-10", "a-epochs6-3", "a-2", "a-epochs6-lr0.1", "a"]
    assert run_folders(tmp_path, "c") == []
    assert run_folders(tmp_path / "none", "a") == []


def test_what_a_killed_first_start_left_is_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    dead_lease(folder)
    (folder / ".config.yaml.0123456789abcdef.part").write_text("half")
    (folder / "provenance.json").write_text("{}")
    assert [found.path for found in run_folders(tmp_path, "a")] == [folder]
    again, held = claim_new_run(tmp_path, "a")
    assert again.path == folder
    assert [path.name for path in folder.iterdir()] == ["lease-4.json"]
    held.release()


def test_empty_folders_of_a_name_are_removed_and_no_others(tmp_path: Path) -> None:
    begun(tmp_path, "a")
    for name in ("a-2", "a-3", "b", "a-4"):
        (tmp_path / name).mkdir()
    dead_lease(tmp_path / "a-3")
    with lease(tmp_path / "a-4"):  # another process is about to begin
        remove_empty_runs(tmp_path, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a-4", "b"]


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"output: .*file: no run folder .* output=FOLDER"):
        claim_new_run(tmp_path / "file", "a")


def test_a_folder_without_configuration_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        open_run_folder(tmp_path)


def test_an_empty_folder_of_another_user_is_passed_over(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "a").mkdir(mode=0o500)
    folder, held = claim_new_run(tmp_path, "a")
    with held:
        assert folder.path.name == "a-2"
        remove_empty_runs(tmp_path, "a")
    assert (tmp_path / "a").is_dir()


def test_a_folder_knows_whether_mlflow_has_its_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.note_sent(False)
    assert folder.is_sent(), "a run that is not tracked lacks nothing"
    folder.tracking.write_text('{"run_id": "1"}')
    assert folder.is_sent(), "as an earlier version wrote it"
    for complete in (False, True):
        folder.note_sent(complete)
        assert folder.is_sent() == complete
        assert json.loads(folder.tracking.read_text()) == {"run_id": "1", "complete": complete}
