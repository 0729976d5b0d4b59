from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer
from command import Run
from typer.testing import CliRunner

from famseg.cli import _main, app, main

HEAVY = ("torch", "monai", "mlflow", "pandas", "matplotlib")


@pytest.mark.parametrize(
    ("arguments", "also"),
    [
        (["--help"], ["pydantic", "yaml"]),
        (["train", "--help"], []),
        (["measure", "--help"], []),
        (["--version"], []),
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str], also: list[str]) -> None:
    code = (
        "import sys; from famseg.cli import main\n"
        f"sys.argv = ['famseg', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code in (0, None)\n"
        f"print([name for name in {(*HEAVY, *also)!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    ("others", "given", "expected"),
    [(1, {}, "1000"), (0, {}, None), (1, {"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_threads_sleep_soon_only_on_a_busy_machine(
    monkeypatch: pytest.MonkeyPatch, others: int, given: dict[str, str], expected: str | None
) -> None:
    monkeypatch.setattr(_main, "_others_running", lambda: others)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["famseg", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/loadavg")
def test_a_program_that_runs_is_noticed() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            assert any(_main._others_running() > 0 for _ in range(100))
        finally:
            busy.kill()


def test_a_configuration_is_checked_without_torch() -> None:
    code = (
        "import sys; from famseg.cli import main\n"
        "sys.argv = ['famseg', 'config', 'check', '--config', 'skull']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code in (0, None)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("command", ["train", "evaluate", "measure", "doctor", "ui", "config"])
def test_every_command_shows_examples(famseg: Run, command: str) -> None:
    done = famseg(command, "--help")
    assert done.returncode == 0
    assert f"famseg {command}" in done.stdout


def test_a_name_that_no_file_can_have_is_faulty_input(famseg: Run) -> None:
    name = "n" * 300
    done = famseg("split", name, "--test", "0.2")
    assert done.returncode == 2
    assert done.stderr == f"famseg: {name}: File name too long. Choose another name.\n"


def test_debug_shows_the_traceback(famseg: Run) -> None:
    done = famseg("config", "check", "--config", "nosuch", "--debug")
    assert "Traceback" in done.stderr
    assert "InputError" in done.stderr


def test_a_wrong_name_gets_the_one_command_that_was_meant(famseg: Run) -> None:
    done = famseg("reprot")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Error: No such command 'reprot'. Did you mean 'report'?"
    assert famseg("xyzzy").stderr.splitlines()[-1] == "Error: No such command 'xyzzy'."


def test_the_shell_completes_commands() -> None:
    asked = {"_FAMSEG_COMPLETE": "complete_bash", "COMP_WORDS": "famseg rec", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['famseg']; from famseg.cli._main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked}
    )
    assert (done.stdout.split(), done.stderr) == (["reconstruct"], "")


@pytest.mark.parametrize("command", [[], ["config"], ["runs"]])
def test_the_lists_of_commands_are_whole(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80"})
    listed = [line for line in done.output.splitlines() if not line.startswith("Usage")]
    assert not any(line.endswith("...") for line in listed)
    assert all(len(line) <= 80 for line in done.output.splitlines())


def test_every_command_is_in_a_section() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    commands = typer.main.get_group(app).commands
    listed = [name for name, one in commands.items() if not one.hidden]
    assert [name for name in listed if f"\n  {name} " not in shown] == []
