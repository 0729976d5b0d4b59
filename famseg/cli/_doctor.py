"""``famseg doctor``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from famseg.cli._say import say, say_json
from famseg.messages import visible

if TYPE_CHECKING:
    from famseg.cli._checks import Check

EXAMPLES = """
Examples:

  famseg doctor

  famseg doctor --json

  docker run --gpus all famseg doctor
"""

_COLORS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check versions, devices, memory, the MLflow store and write access.

    Each line is ok, warning or fault, and says what to do. Exit status 1 if there is a fault.
    """
    checks = list(_checks())
    if as_json:
        say_json(_as_dict(checks))
    else:
        _print(checks)
    if any(check.status == "fault" for check in checks):
        raise typer.Exit(1)


doctor.__doc__ = f"{inspect.cleandoc(doctor.__doc__ or '')}\n{EXAMPLES}"


def _checks() -> Iterator[Check]:
    from famseg.cli import _checks

    yield from _checks.versions()
    yield from _checks.processor()
    yield from _checks.graphics()
    yield from _checks.memory()
    yield from _checks.shared_memory()
    yield _checks.store()
    yield from _checks.folders()
    yield _checks.open_files()


def _as_dict(checks: Sequence[Check]) -> dict[str, object]:
    return {
        "ok": all(check.status != "fault" for check in checks),
        "checks": [check._asdict() for check in checks],
    }


def _print(checks: Sequence[Check]) -> None:
    width = max(len(check.name) for check in checks)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False)
        for check in checks:
            line = Text(f"{check.status:<7}", style=_COLORS[check.status])
            line.append(visible(f"  {check.name:<{width}}  {_said(check)}"), style="default")
            console.print(line, soft_wrap=True)
        return
    for check in checks:
        say(f"{check.status:<7}  {check.name:<{width}}  {_said(check)}")


def _said(check: Check) -> str:
    return f"{check.text}. {check.advice}" if check.advice else check.text
