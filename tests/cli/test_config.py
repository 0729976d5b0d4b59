from __future__ import annotations

import json
import sys
from textwrap import dedent

import pytest
import typer
from typer.testing import CliRunner

from famseg.cli._config import app, files_and_overrides
from famseg.config import load
from famseg.messages import InputError

MODULE = """
    from typing import Annotated, Literal
    from pydantic import Field
    from famseg.config import Strict

    class No(Strict):
        kind: Literal["none"] = "none"

    class Flat(Strict):
        kind: Literal["flat"]
        weight: float = Field(alias="lambda", ge=0, description="weight of the penalty")

    class Config(Strict):
        pipeline: Literal["tiny"]
        seed: int = Field(0, ge=0, description="seed of everything random")
        penalty: Annotated[No | Flat, Field(discriminator="kind")] = No()
    """


@pytest.fixture(autouse=True)
def folder(tmp_path, tmp_path_factory, monkeypatch):
    """A working folder with files of a pipeline that is installed for the test."""
    site = tmp_path_factory.mktemp("site")
    (site / "tiny_pipeline.py").write_text(dedent(MODULE))
    info = site / "tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[famseg.pipelines]\ntiny = tiny_pipeline\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("pipeline: tiny\npenalty: {kind: flat, lambda: 1e-3}\n")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\nseed: 1\n")
    (tmp_path / "bad.yaml").write_text("extends: base.yaml\nsead: 1\nseed: x\n")
    yield tmp_path
    sys.modules.pop("tiny_pipeline", None)


def run(*arguments):
    """Return the output of a command; errors that the program's entry point catches are raised."""
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def refusal(*arguments):
    with pytest.raises(InputError) as caught:
        run(*arguments)
    return list(caught.value.faults)


def test_show_prints_the_resolved_configuration():
    assert run("show", "--config", "own.yaml", "lambda=2", "seed=3") == (
        "# Resolved from own.yaml, which extends base.yaml, with lambda=2 seed=3\n"
        "pipeline: tiny\n"
        "seed: 3\n"
        "penalty:\n"
        "  kind: flat\n"
        "  lambda: 2.0\n"
    )


def test_what_show_prints_is_a_configuration(folder):
    (folder / "shown.yaml").write_text(run("show", "own.yaml"))
    assert load("shown.yaml") == load("own.yaml")


def test_show_as_json():
    assert json.loads(run("show", "--config", "own", "--json")) == {
        "pipeline": "tiny",
        "seed": 1,
        "penalty": {"kind": "flat", "lambda": 0.001},
    }


@pytest.mark.parametrize(
    ("arguments", "count"), [([], 0), (["a.yaml", "b.yaml"], 2), (["-c", "a.yaml", "b.yaml"], 2)]
)
def test_show_takes_one_file(arguments, count):
    assert refusal("show", *arguments) == [
        f"config show: takes one file, got {count}. Name it with --config FILE; changes are "
        "written key=value."
    ]


def test_check_says_ok():
    assert run("check", "--config", "own.yaml", "lambda=0") == "own.yaml: ok\n"
    assert run("check", "own.yaml", "base.yaml") == "own.yaml: ok\nbase.yaml: ok\n"
    assert run("check", "-c", "own.yaml", "-c", "base.yaml") == "own.yaml: ok\nbase.yaml: ok\n"


def test_check_as_json(folder):
    assert json.loads(run("check", "own.yaml", "--json")) == {
        "ok": True,
        "files": [{"file": "own.yaml", "ok": True, "errors": []}],
    }
    done = CliRunner().invoke(app, ["check", "own.yaml", "bad.yaml", "--json"])
    result = json.loads(done.stdout)
    assert not result["ok"]
    assert [each["ok"] for each in result["files"]] == [True, False]
    assert result["files"][1]["errors"] == list(done.exception.faults)


def test_check_reports_every_fault_of_every_file(folder):
    (folder / "worse.yaml").write_text("pipeline: [\n")
    found = refusal("check", "bad.yaml", "own.yaml", "worse.yaml", "lambda=-1")
    assert found[:3] == [
        "bad.yaml:2: sead: unknown key (did you mean seed?)",
        "bad.yaml:3: seed: expected a whole number, got the text 'x'",
        "command line: penalty.lambda: must be at least 0, got -1",  # once for all files
    ]
    assert found[3].startswith("worse.yaml:2: not valid YAML: ")
    assert len(found) == 4


def test_check_needs_a_file():
    assert refusal("check") == ["config check: no file is given. Give one with --config FILE."]
    assert refusal("check", "seed=1") == refusal("check")


def test_check_of_a_file_that_is_not_there():
    (line,) = refusal("check", "--config", "nowhere.yaml")
    assert line.startswith("nowhere.yaml: there is no such configuration. ")


def test_schema_of_a_pipeline():
    schema = json.loads(run("schema", "--pipeline", "tiny"))
    assert schema["properties"]["seed"]["description"] == "seed of everything random"
    assert "lambda" in schema["$defs"]["Flat"]["properties"]


def test_schema_of_a_pipeline_that_is_not_installed():
    (line,) = refusal("schema", "--pipeline", "tini")
    assert line.startswith("no pipeline is called 'tini'. Installed: ")
    assert line.endswith("Did you mean tiny?")


def test_schema_asks_which_pipeline():
    (line,) = refusal("schema")  # famseg's own pipelines are installed, too
    assert line.startswith(
        "config schema: no pipeline is given. Give one with --pipeline NAME. Installed: "
    )


@pytest.mark.parametrize(
    ("argument", "is_file"),
    [
        ("skull.yaml", True),
        ("lambda=0.1", False),
        ("penalty.lambda=0.1", False),
        ("data.root=../a/b=c.yaml", False),
        ("runs/lambda=0.1 seed=0/config.yaml", True),
        ("./lambda=0.1.yaml", True),
        ("=3", False),
    ],
)
def test_files_and_overrides_are_told_apart(argument, is_file):
    files, overrides = files_and_overrides(None, [argument])
    assert (files, overrides) == (([argument], []) if is_file else ([], [argument]))


@pytest.mark.parametrize("command", ["show", "check", "schema"])
def test_every_command_has_examples_one_a_line(command):
    program = typer.Typer(rich_markup_mode=None)  # as the program's own
    program.add_typer(app, name="config")
    text = CliRunner().invoke(program, ["config", command, "--help"]).stdout
    assert f"\n    famseg config {command} --" in text
