"""The page of the command line, from the program itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import typer
from typer.core import TyperCommand, TyperGroup

from famseg.cli import app

HEAD = """# Command line

Every command with its arguments and options, as `famseg COMMAND --help` prints them; written by
`make docs` from the program.

Exit status of all: 0 done, 1 a failed run, 2 faulty input (one line a fault on standard error, with
what to do about it), 128 + n ended by signal n. `--debug`, anywhere, shows tracebacks and the
warnings of libraries.
"""


def command_line_page() -> str:
    """Return the page in Markdown."""
    root = typer.main.get_command(app)
    sections = [_section("famseg", command) for command in _commands(root)]
    return "\n".join([HEAD, *sections])


def _commands(
    group: TyperCommand | TyperGroup, above: str = ""
) -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            if command.invoke_without_command:
                yield f"{above}{name}", command
            yield from _commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def _section(program: str, named: tuple[str, TyperCommand]) -> str:
    name, command = named
    context = typer.Context(command, info_name=f"{program} {name}")
    usage = context.get_usage().removeprefix("Usage: ")
    said = inspect.cleandoc(command.help or "")
    text, _, examples = said.partition("Examples:\n")
    examples = examples or (command.epilog or "").partition("Examples:\n")[2]
    return "\n".join(
        [
            f"## {program} {name}\n",
            f"{text.strip()}\n",
            f"```text\n{usage}\n```\n",
            *_table(command, context),
            *_examples(examples),
        ]
    )


def _table(command: TyperCommand, context: typer.Context) -> Iterator[str]:
    records = [each.get_help_record(context) for each in command.params]
    yield "| argument or option | meaning |\n| --- | --- |"
    for left, right in (record for record in records if record is not None):
        names = re.sub(r"  +", " ", left).replace("|", "\\|")
        yield f"| `{names}` | {_cell(right)} |"
    yield ""


def _cell(text: str) -> str:
    """Escape what Markdown would take for itself."""
    return re.sub(r"([|<>*_\[\]])", r"\\\1", " ".join(text.split()))


def _examples(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ["```console", *lines, "```", ""] if lines else []
