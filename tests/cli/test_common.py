"""``--device``, ``--seed`` and ``key=value``, which work in the same way in several commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from famseg.cli._common import (
    FREE_ON_RUN,
    changes_among,
    changes_on_run,
    overrides_of,
    seed_of,
)
from famseg.cli._main import app
from famseg.messages import InputError

# What a command needs before the options in question.
COMMANDS = {
    "train": ("--config", "smoke/skull"),
    "sweep": ("--config", "smoke/skull", "--out", "sweep"),
    "evaluate": ("run",),
    "measure": ("run",),
    "reconstruct": ("builtin", "demo", "--out", "out"),
}


def parameters(name: str) -> Mapping[str, typer.core.TyperOption]:
    command = typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined]
    return {option: each for each in command.params for option in each.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_are_the_same_in_every_command(name: str) -> None:
    found, first = parameters(name), parameters("train")
    for option in ("--device", "--seed"):
        shown = [(each.help, each.metavar, each.default) for each in (found[option], first[option])]
        assert shown[0] == shown[1], option


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "gpu"), "training.device: must be auto, cpu, cuda or cuda:N, got gpu"),
        (("training.device=gpu",), "training.device: must be auto, cpu, cuda or cuda:N, got gpu"),
        (
            ("--device", "cpu", "training.device=cuda"),
            "training.device: is set twice, by training.device=cuda and by --device cpu.",
        ),
        (("--seed", "1", "seed=2"), "seed: is set twice, by seed=2 and by --seed 1."),
        (("--seed", "-1"), "Invalid value for '--seed'"),
        (("seed=x",), "seed: "),
        (("nowhere.at.all=1",), "nowhere"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_said_in_the_same_way(
    name: str, words: tuple[str, ...], said: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    done = CliRunner().invoke(app, [name, *COMMANDS[name], *words])
    text = str(done.exception) if isinstance(done.exception, InputError) else done.output
    assert done.exit_code != 0
    assert said in text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    from famseg.config import load, to_yaml

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(load("smoke/skull", [])[1]))
    return folder


def test_an_option_is_short_for_its_key() -> None:
    assert overrides_of(["a=1"], device="cuda:1", seed=3) == [
        "a=1",
        "training.device=cuda:1",
        "seed=3",
    ]
    assert overrides_of(["seed=3"], seed=3) == ["seed=3"]
    assert overrides_of(None) == []


@pytest.mark.parametrize("change", ["lambda=0.1", "model.latent=3", "training.epochs=5", "seeds=1"])
def test_a_trained_run_keeps_what_it_was_trained_with(change: str) -> None:
    with pytest.raises(InputError, match=rf"^{change.partition('=')[0]}: cannot be changed here"):
        changes_on_run([change])


def test_only_a_near_key_is_meant() -> None:
    with pytest.raises(InputError, match=r"Did you mean training\.threads\?"):
        changes_on_run(["training.thread=2"])
    with pytest.raises(InputError, match=r"cannot be changed here\. Only these can be changed: "):
        changes_on_run(["training.epochs=2"])


def test_where_and_how_fast_a_command_computes_may_change() -> None:
    changes = [f"{key}=1" for key in FREE_ON_RUN] + ["tracking.enabled=false"]
    assert changes_on_run(changes) == changes
    assert changes_on_run(["training.threads=2"], seed=1) == ["training.threads=2", "seed=1"]


def test_a_file_with_an_equals_sign_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a=1.nii").touch()
    words = [tmp_path / "a=1.nii", Path("lambda=1/b.nii"), Path("seed=1")]
    assert changes_among(words) == (words[:1], ["lambda=1/b.nii", "seed=1"])


@pytest.mark.parametrize(("changes", "seed"), [([], 0), (["seed=7"], 7), (["seed=1", "seed=2"], 2)])
def test_the_seed_is_the_last_one(changes: list[str], seed: int) -> None:
    assert seed_of(changes) == seed
