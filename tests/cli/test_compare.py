from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from famseg.cli._main import app
from famseg.messages import InputError

sys.path.insert(0, str(Path(__file__).parents[1] / "reporting"))

from made_runs import FAM, make_run  # found through the line above

DSC = "test/set1/implant/dsc"


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["compare", *arguments])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two methods with two seeds each, an interrupted run, and one that failed at the start."""
    for seed in (0, 1):
        make_run(tmp_path / "runs", f"base{seed}", seed=seed, dsc=[0.5, 0.5 + seed / 10])
        make_run(tmp_path / "runs", f"fam{seed}", seed=seed, settings=FAM, dsc=[0.6, 0.8])
    make_run(tmp_path / "runs", "fam2", seed=2, settings=FAM, epochs=1)
    (tmp_path / "runs" / "fam3").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_of_runs_is_compared(root: Path) -> None:
    done = compare("runs")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "skull, data phantom (01234567)"
    assert lines[1].startswith("  FAM lambda=0.1 against baseline: +0.175 DSC of the implant, set1")
    assert "; it takes 6 seeds or more." in " ".join(map(str.strip, lines[1:5]))
    assert max(map(len, lines)) <= 80
    assert f"{DSC} (higher is better)" in lines
    assert f"{DSC}: difference to baseline, by seed" in lines
    text = " ".join(map(str.strip, lines))
    assert "left out of all results: runs/fam2 (FAM lambda=0.1, seed 2): 1 of 2" in text
    assert done.stderr == "famseg: runs/fam3: is empty: the run ended before it started\n"


def test_json_csv_and_markdown(root: Path) -> None:
    done = compare("runs", "--json", "--csv", "c.csv", "--by", "case", "--metric", DSC)
    content = json.loads(done.stdout)
    assert content["notes"] == ["runs/fam3: is empty: the run ended before it started"]
    (study,) = content["studies"]
    assert (study["by"], study["metrics"]) == ("case", [DSC])
    against = study["groups"][1]["against_baseline"][DSC]
    assert (against["n"], against["difference"]) == (2, pytest.approx(0.175))
    with (root / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["group"] for row in rows] == ["baseline", "FAM lambda=0.1"]
    assert float(rows[1]["mean"]) == pytest.approx(0.7)
    assert rows[0]["difference"] == ""
    assert study["verdict"][0].startswith("FAM lambda=0.1 against baseline: ")
    assert [line["name"] for line in study["overview"]["lines"]] == ["baseline", "FAM lambda=0.1"]
    lines = compare("runs", "--markdown").stdout.splitlines()
    assert lines[0].startswith("- FAM lambda=0.1 against baseline: ")
    assert "**skull, data phantom (01234567)**" in lines


def test_the_page_has_the_same_verdict(root: Path) -> None:
    done = compare("runs", "--html", "c.html", "--difference", "0.3")
    assert done.exit_code == 0
    page = (root / "c.html").read_text()
    assert "FAM lambda=0.1 against baseline: +0.175 DSC" in page
    assert "could show" in page
    assert "for 0.3" in done.stdout


def test_different_data_are_named(root: Path) -> None:
    make_run(root / "runs", "far", dsc=[0.5], data_hash="ffff")
    last = compare("runs").stdout.splitlines()[-1]
    assert last == (
        "Different pipelines or data are compared separately: skull, data phantom (01234567); "
        "skull, data phantom (ffff)"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "nowhere: is not a folder. Give a folder of runs."),
        (["runs", "--json", "--markdown"], "--json: cannot be combined with --markdown: choose"),
        (["runs", "--csv", "no/c.csv"], "no/c.csv: cannot be written: check that its folder"),
        (["runs", "--html", "no/c.html"], "no/c.html: cannot be written: check that its folder"),
        (["runs", "--difference", "0"], "--difference: must be a number above 0"),
        (["runs", "--metric", "dsc"], "--metric: no run has dsc. "),
        (["runs", "--baseline", "sam"], "--baseline: 'sam' matches the name of no group"),
    ],
)
def test_faulty_input_is_one_line(root: Path, arguments: list[str], line: str) -> None:
    done = compare(*arguments)
    assert done.stdout == ""
    assert isinstance(done.exception, InputError), done.exception
    (fault,) = done.exception.faults
    assert fault.startswith(line)


def test_what_was_evaluated_is_said_and_chosen(root: Path) -> None:
    assert "scores: of checkpoints/best.pt of each run" in compare("runs").stdout
    with pytest.raises(InputError, match=r"base0: not finished: last\.pt is not evaluated: famseg"):
        CliRunner().invoke(app, ["compare", "runs", "--checkpoint", "last"], catch_exceptions=False)


def test_nothing_heavy_is_imported(root: Path) -> None:
    heavy = ("torch", "monai", "mlflow", "pandas", "matplotlib")
    code = (
        "import sys; from famseg.cli import main\n"
        "sys.argv = ['famseg', 'compare', 'runs', '--by', 'case']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code in (0, None)\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_the_help_has_examples() -> None:
    done = compare("--help")
    assert "famseg compare runs --baseline" in done.stdout
