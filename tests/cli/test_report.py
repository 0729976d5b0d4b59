from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reporting"))

from made_cases import make_case, make_output
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
    target = tmp_path / "a.html"
    done = famseg("report", str(run), "--out", str(target), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == {"kind": "report", "path": str(target), "bytes": target.stat().st_size}
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "is not a folder. Give a folder of runs."),
        (["runs/a", "--out", "missing/a.html"], "cannot be written"),
        (["runs/a", "--baseline", "x"], "--baseline: applies only to several runs."),
        (["runs"], "is the only run in the folder. Give several runs to compare"),
    ],
)
def test_bad_input_is_one_line(famseg, run, words, message):
    done = famseg("report", *words)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert message in line


def test_several_runs_make_a_comparison(famseg, run, tmp_path):
    for seed in range(2):
        make_run(tmp_path / "runs", f"b{seed}", seed=seed, metrics={"test/set1/skull/dsc": 0.8})
    done = famseg("report", "runs")
    assert done.returncode == 0, done.stderr
    assert f"comparison   {Path('runs', 'comparison.html')}" in done.stdout
    assert "Comparison of 3 runs" in (tmp_path / "runs" / "comparison.html").read_text()
    done = famseg("report", str(run), "runs/b0", "--metric", "test/set1/skull/dsc")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "comparison.html").is_file()


def test_the_output_of_reconstruct_has_a_report(famseg, tmp_path):
    make_output(tmp_path / "out")
    make_case(tmp_path / "out", "head", 0.4)
    done = famseg("report", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    target = tmp_path / "out" / "report.html"
    assert f"report       {target}" in done.stdout
    assert "Do not rely on this implant." in target.read_text()
    wrong = famseg("report", str(tmp_path / "out"), "--metric", "dsc")
    assert wrong.returncode == 2
    assert "contains reconstructions" in wrong.stderr
    nowhere = famseg("report", str(tmp_path / "out"), "--out", str(tmp_path / "a" / "b.html"))
    assert nowhere.returncode == 2
    assert "cannot be written" in nowhere.stderr
