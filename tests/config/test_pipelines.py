from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

from famseg.config import load, load_pipeline, pipeline_names, pipeline_of, read
from famseg.messages import InputError

MODULES = {
    "sample_pipeline": """
        from typing import Literal
        from pydantic import Field
        from famseg.config import Strict

        class Config(Strict):
            pipeline: Literal["sample"]
            seed: int = Field(0, ge=0)
        """,
    "no_config_pipeline": "",
    "odd_config_pipeline": "Config = dict",
    "broken_pipeline": "import a_module_that_is_not_there",
}


@pytest.fixture(autouse=True)
def installed(tmp_path_factory, monkeypatch):
    """A package with pipelines, installed like others: modules and entry points on the path."""
    site = tmp_path_factory.mktemp("site")
    for name, text in MODULES.items():
        (site / f"{name}.py").write_text(dedent(text))
    info = site / "sample-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
    points = "".join(f"{name.removesuffix('_pipeline')} = {name}\n" for name in MODULES)
    (info / "entry_points.txt").write_text(f"[famseg.pipelines]\n{points}")
    monkeypatch.syspath_prepend(site)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return list(caught.value.faults)


def test_pipelines_of_other_packages_are_found():
    assert {"broken", "no_config", "odd_config", "sample"} <= set(pipeline_names())
    assert load_pipeline("sample").Config.__name__ == "Config"


def test_an_unknown_pipeline_lists_those_installed():
    (line,) = refusal(load_pipeline, "samplee")
    assert line.startswith("no pipeline is called 'samplee'. Installed: broken, ")
    assert line.endswith(" Did you mean sample?")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_config",
            "the pipeline no_config (no_config_pipeline) has no class Config derived from "
            "famseg.config.Strict. Add it.",
        ),
        (
            "odd_config",
            "the pipeline odd_config (odd_config_pipeline) has no class Config derived from "
            "famseg.config.Strict. Add it.",
        ),
        (
            "broken",
            "the pipeline broken cannot be loaded from broken_pipeline: No module named "
            "'a_module_that_is_not_there'. Install what it needs.",
        ),
    ],
)
def test_a_pipeline_that_cannot_be_used(name, message):
    assert refusal(load_pipeline, name) == [message]


def test_loading_in_one_call(write):
    write("a.yaml", "pipeline: sample\nseed: 1\n")
    module, config = load("a", ["seed=2"])
    assert module.__name__ == "sample_pipeline"
    assert isinstance(config, module.Config)
    assert config.seed == 2


def test_the_pipeline_of_a_document(write):
    assert pipeline_of(read(write("a.yaml", "pipeline: sample\n"))) == "sample"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("seed: 1\n", "a.yaml: pipeline: missing. Choose one of broken, "),
        ("seed: 1\npipeline:\n", "a.yaml:2: pipeline: missing. Choose one of broken, "),
        ("pipeline: [a]\n", "a.yaml:1: pipeline: must be one of broken, "),
        ("pipeline: samplee\n", "a.yaml:1: pipeline: no pipeline is called 'samplee'. Installed: "),
    ],
)
def test_a_document_without_a_usable_pipeline(write, text, start):
    (line,) = refusal(load, write("a.yaml", text))
    assert line.startswith(start)


def test_faults_found_before_are_reported_with_the_pipeline(write):
    found = refusal(load, write("a.yaml", "pipeline: samplee\nseed: 1\nseed: 2\n"), ["foo"])
    assert [line[:18] for line in found] == [
        "a.yaml:1: pipeline",
        "a.yaml:3: seed: gi",
        "command line: 'foo",
    ]


def test_every_fault_of_a_document_in_one_call(write):
    assert refusal(load, write("a.yaml", "pipeline: sample\nsead: 1\n"), ["seed=-1"]) == [
        "a.yaml:2: sead: unknown key (did you mean seed?)",
        "command line: seed: must be at least 0, got -1",
    ]


@pytest.mark.parametrize(
    "start",
    [["-m"], pytest.param(["-m", "torch.distributed.run", "-m"], marks=pytest.mark.nightly)],
    ids=["python", "torchrun"],
)
def test_a_module_in_the_users_folder_shadows_no_pipeline(start, tmp_path):
    for name in ("pipelines", "skull", "configs"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the module of the user')")
    command = [sys.executable, *start, "famseg", "config", "check", "smoke/skull"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "the module of the user" not in run.stderr
