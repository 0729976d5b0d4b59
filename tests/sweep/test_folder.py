from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from famseg.messages import InputError
from famseg.sweep import Trial, find_sweep, open_sweep


def test_two_starts_at_once_are_one_sweep(tmp_path: Path) -> None:
    for number in range(20):
        place = tmp_path / f"sweep{number}"
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(open_sweep, [place] * 4))
        assert len({each.sweep_id for each in found}) == 1
        assert found[0].sweep_id.startswith(f"sweep{number}-")
        assert [path.name for path in place.iterdir()] == ["sweep.json"]


def test_a_folder_with_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="is not empty and not a sweep"):
        open_sweep(tmp_path)
    assert find_sweep(tmp_path) is None
    with pytest.raises(InputError, match="is a file"):
        open_sweep(tmp_path / "thesis.tex")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match="has no sweep_id"):
        open_sweep(tmp_path)


def test_a_request_is_noted_once_and_configurations_are_written(tmp_path: Path) -> None:
    folder = open_sweep(tmp_path / "new")
    trial = Trial("a", {}, "seed: 1\n", 2, 1)
    for _ in range(2):
        folder.note({"words": ["seed=1"]})
        folder.write_trials([trial])
    folder.note({"words": ["seed=1,2"]})
    assert folder.config(trial).read_text() == "seed: 1\n"
    assert open_sweep(tmp_path / "new") == folder
    assert folder.record.read_text().count("words") == 2
