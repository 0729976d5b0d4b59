from __future__ import annotations

import subprocess
import sys

import pytest
from command import Run

HEAVY = ("torch", "monai", "mlflow", "pandas", "matplotlib")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["measure", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from famseg.cli import main\n"
        f"sys.argv = ['famseg', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code in (0, None)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


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
