from __future__ import annotations

import json
from pathlib import Path

import pytest

from famseg.messages import InputError
from famseg.runs import complete_record


def row(epoch: int, loss: float | None = 0.5) -> dict[str, float | None]:
    return {"epoch": epoch, "time": 1.0, "train/loss": loss}


def write(folder: Path, *rows: dict[str, float | None]) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    return path


@pytest.mark.parametrize("written", [(), (1,), (1, 3), (2,), (1, 2, 3)])
def test_what_is_missing_is_put_in_its_place(tmp_path: Path, written: tuple[int, ...]) -> None:
    path = write(tmp_path, *(row(epoch) for epoch in written))
    rows = complete_record(tmp_path, [row(1, 7.0), row(2, None), row(3, 7.0)])
    assert [each["epoch"] for each in rows] == [1, 2, 3]
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    # What was written stays: other programs may have read it.
    assert all(each["train/loss"] == 0.5 for each in rows if each["epoch"] in written)


def test_a_whole_record_is_not_touched(tmp_path: Path) -> None:
    path = write(tmp_path, row(1), row(2), row(3))
    before = path.stat()
    assert complete_record(tmp_path, [row(1), row(2)]) == [row(1), row(2), row(3)]
    assert path.stat() == before
    assert complete_record(tmp_path, []) == [row(1), row(2), row(3)]


def test_there_may_be_no_record(tmp_path: Path) -> None:
    assert complete_record(tmp_path, []) == []
    assert not list(tmp_path.iterdir())
    assert complete_record(tmp_path, [row(1)]) == [row(1)]


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl:1: is not a line of metrics"):
        complete_record(tmp_path, [row(1)])
