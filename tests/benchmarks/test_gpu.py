"""The script for a machine with a GPU: its refusals, and its report of failed parts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu.sh"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = util.spec_from_file_location("_gpu_report", BENCHMARKS / "_gpu_report.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = run("--out", str(tmp_path / "out"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"gpu.sh: torch {torch.__version__} (CUDA ")
    assert "finds no GPU" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "tpu"], "--device must be cuda or cpu, got tpu"),
        (["--seconds", "soon"], "--seconds must be a whole number, got soon"),
        (["--only", "tests,tables"], "--only names a part that there is not; --help lists them"),
        (["--out"], "--out needs a value"),
        (["--quick"], "unknown argument --quick; --help lists those that there are"),
    ],
)
def test_faulty_arguments_are_refused(arguments, said):
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (2, f"gpu.sh: {said}\n")


def test_the_help_names_every_part():
    shown = run("--help").stdout
    parts = [line.split()[1] for line in SCRIPT.read_text().splitlines() if "part " in line[:9]]
    assert "tests" in parts
    assert [part for part in parts if part not in shown and part not in ("NAME", "runs")] == []


@pytest.mark.slow
@pytest.mark.nightly
def test_a_rehearsal_runs_on_the_processor(tmp_path):
    done = run("--device", "cpu", "--out", str(tmp_path), "--only", "one_rank,all_ranks")
    assert done.returncode == 0, (tmp_path / "gpu.log").read_text()
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["versions"]["torch"] == torch.__version__
    one, both = found["parts"]
    assert (one["name"], one["state"], one["found"]["ranks"]) == ("one_rank", "passed", [0])
    assert (both["name"], both["state"], both["found"]["ranks"]) == ("all_ranks", "passed", [0, 1])
    assert one["found"]["backend"] == "gloo"
    assert "==== all_ranks: passed" in (tmp_path / "gpu.log").read_text()


@pytest.mark.slow
def test_parts_for_which_no_time_is_left_are_named_and_the_status_is_1(tmp_path):
    done = run("--device", "cpu", "--out", str(tmp_path), "--seconds", "0")
    assert done.returncode == 1
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert len(parts) == 6
    assert {part["state"] for part in parts} == {"not run: no time left"}


def test_the_report_says_what_went_wrong(report, tmp_path, capsys):
    junit = (
        '<testsuites><testsuite><testcase classname="tests.a" name="one"/>'
        '<testcase classname="tests.a" name="two"><failure/></testcase>'
        '<testcase classname="tests.b" name="three"><skipped/></testcase></testsuite></testsuites>'
    )
    (tmp_path / "tests.xml").write_text(junit)
    (tmp_path / "tests.log").write_text("".join(f"line {k}\n" for k in range(100)))
    rows = [
        ("tests", "failed", "1", "10.25", "12.5", "150", "python -m pytest"),
        ("one_rank", "out of time", "124", "12,5", "57,5", "45", "bash"),
        ("training_run", "not run: not installed: monai", "0", "57.5", "57.5", "90", "bash"),
    ]
    (tmp_path / "parts.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    assert report.write(str(tmp_path), str(tmp_path), "cpu", "58") == 0
    tests, rank, training = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert tests["found"] == {"passed": 1, "failed": 1, "skipped": 1, "failing": ["tests.a::two"]}
    assert (tests["seconds"], tests["status"], tests["limit_s"]) == (2.25, 1, 150)
    assert tests["log"] == [f"line {k}" for k in range(60, 100)]
    assert (rank["state"], rank["seconds"], rank["found"]) == ("out of time", 45.0, None)
    assert training["state"] == "not run: not installed: monai"
    printed = capsys.readouterr().out.splitlines()
    assert " ".join(printed[0].split()) == "tests 2.2 s failed 1 passed, 1 failed, 1 skipped"


def test_what_is_not_installed_is_named(report, capsys):
    report.missing("json", "no_such_package", "torch")
    assert capsys.readouterr().out == "no_such_package\n"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_the_script_is_clean():
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.stdout == ""
