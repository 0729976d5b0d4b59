from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from famseg.engine._scores import scores_metrics, scores_table, write_scores
from famseg.messages import InputError


def test_cases_and_aggregates_are_written(tmp_path: Path) -> None:
    rows = [{"subject": "a", "r2": 0.25}, {"subject": "b", "r2": 0.75}]
    summary = write_scores({"test": rows}, tmp_path / "evaluation")
    figures = {"mean": 0.5, "std": 0.25, "min": 0.25, "max": 0.75, "n": 2, "failed": 0}
    assert summary == {"test": {"r2": figures}}
    assert json.loads((tmp_path / "evaluation/summary.json").read_text()) == summary
    with (tmp_path / "evaluation/cases.csv").open() as file:
        assert list(csv.DictReader(file))[1] == {"set": "test", "subject": "b", "r2": "0.75"}


def test_a_failed_case_is_counted_and_leaves_no_mean(tmp_path: Path) -> None:
    rows = [{"subject": "a", "r2": 0.25}, {"subject": "b", "r2": float("nan")}]
    summary = write_scores({"far": rows}, tmp_path)
    assert scores_metrics(summary) == {"test/far/n": 2.0, "test/far/failed": 1.0}
    assert scores_table(summary).splitlines()[1] == "far  r2      none ± none  none  none  2  1"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"evaluation: cannot be written to"):
        write_scores({"test": [{"r2": 1.0}]}, tmp_path / "file" / "evaluation")
