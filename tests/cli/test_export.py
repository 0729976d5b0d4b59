"""`famseg export`: the command around famseg.export."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from famseg.cli._main import app
from famseg.messages import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))

from made import implant_run  # found through the line above


def export(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_a_run_is_exported_and_then_not_overwritten(tmp_path: Path) -> None:
    run, out = implant_run(tmp_path / "run"), tmp_path / "out"
    done = export(run, "--format", "torchscript", "--out", out)
    assert done.exit_code == 0, done.exception
    assert f"{out} (torchscript, " in done.stdout
    assert "weights      SHA-256 " in done.stdout
    (out / "README.md").write_text("edited")
    again = export(run, "--format", "torchscript", "--out", out)
    assert isinstance(again.exception, InputError)
    assert "contains files that famseg export did not write" in str(again.exception)
    told = export(run, "--format", "torchscript", "--out", tmp_path / "other", "--json")
    result = json.loads(told.stdout)
    assert result["folder"] == str(tmp_path / "other")
    assert f"weights      SHA-256 {result['weights_sha256']}" in done.stdout


@pytest.mark.parametrize(
    ("run", "message"),
    [("nothing", "nothing: there is no such model"), (".", "there is no config.yaml of a run")],
)
def test_what_is_no_run_is_one_line(tmp_path: Path, run: str, message: str) -> None:
    done = export(tmp_path / run, "--format", "onnx", "--out", tmp_path / "out")
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_format_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = export("builtin", "--format", "zip", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "'bundle', 'onnx', 'torchscript'" in done.output
