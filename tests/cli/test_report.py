from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reporting"))

from made_runs import make_run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs", "a", metrics={"test/set1/skull/dsc": 0.9})


def test_a_report_lies_in_the_run_folder(famseg, run):
    done = famseg("report", str(run))
    assert done.returncode == 0, done.stderr
    page = (run / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert f"report       {run / 'report.html'}" in done.stdout


def test_a_report_can_be_written_elsewhere(famseg, run, tmp_path):
    done = famseg("report", str(run), "--out", str(tmp_path / "a.html"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.html").is_file()
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "is no folder. Give one of runs."),
        (["runs/a", "--out", "missing/a.html"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(famseg, run, words, message):
    done = famseg("report", *words)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert message in line
