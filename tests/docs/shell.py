"""The shell commands that pages show: found, taken apart and held against the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import typer
from typer.core import TyperCommand, TyperGroup

from famseg.cli import app
from famseg.config import load

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "data/*/README.md", "docker/**/*.md")
    for path in ROOT.glob(pattern)
)
SHELLS = {"console", "bash", "sh", "shell"}
# What an indented block must begin with to be one of commands.
PROGRAMS = {"famseg", "make", "pip", "for", "torchrun", "docker", ".", "git", "python", "export"}
_FENCE = re.compile(r"(?P<ticks>`{3,}|~{3,})(?P<info>[^`]*)")
_LOOP = re.compile(r"for (?P<name>\w+) in (?P<values>[^;]+); *do (?P<body>.+?);? *done")
_IMAGE = re.compile(r"(?:[\w.-]+/)*famseg(?::[\w.-]+)?")
_TAKES_CONFIG = {("train",), ("config", "show"), ("config", "check")}


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Args:
        line: Where it stands, from 1.
        text: As it is written, without prompt and comment; of a loop one round.
        output: What the page prints below it; empty where a block has commands alone.
    """

    line: int
    text: str
    output: str = ""

    def words(self) -> list[str]:
        return shlex.split(self.text)

    def famseg(self) -> list[str] | None:
        """The arguments of famseg, however it is started; None where it is not."""
        words = self.words()
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            del words[0]
        if ">" in words:
            words = words[: words.index(">")]
        if words[:1] == ["famseg"]:
            return words[1:]
        if words[:2] == ["docker", "run"]:
            image = [bool(_IMAGE.fullmatch(word)) for word in words]
            return words[image.index(True) + 1 :] or None if any(image) else None
        if words[:1] in (["python"], ["torchrun"]) and "-m" in words:
            module = words.index("-m") + 1
            return words[module + 1 :] if words[module] == "famseg" else None
        return None


def shell_commands(page: Path) -> list[Command]:
    return [round_ for command in _written(page) for round_ in _rounds(command)]


def _written(page: Path) -> Iterator[Command]:
    for first, lines in shell_blocks(page):
        prompts = any(line.startswith("$ ") for line in lines)
        found: Command | None = None
        for number, line in enumerate(lines, first):
            goes_on = found is not None and found.text.endswith("\\")
            if goes_on:
                found = replace(found, text=f"{found.text[:-1]}{_bare(line)}")
            elif prompts and not line.startswith("$ "):
                assert found is not None, f"{page.name}:{number}: output before a command"
                found = replace(found, output=f"{found.output}{line}\n")
            elif line.strip() and not line.lstrip().startswith("#"):
                if found is not None:
                    yield found
                found = Command(number, _bare(line))
        if found is not None:
            yield found


def shell_blocks(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line, and the lines, of each block of commands."""
    ticks, shell = "", False
    block: list[str] = []
    lines = [*page.read_text(encoding="utf-8").splitlines(), ""]
    for number, line in enumerate(lines, 1):
        fence = _FENCE.fullmatch(line.strip())
        if ticks and fence and fence["ticks"].startswith(ticks) and not fence["info"].strip():
            if shell:
                yield number - len(block), block
            ticks, block = "", []
        elif ticks:
            block.append(line)
        elif fence:
            ticks, shell, block = fence["ticks"], fence["info"].split(" ")[0] in SHELLS, []
        elif line.startswith("    ") and (block or not lines[number - 2].strip()):
            block.append(line[4:])
        else:
            if block and block[0].split()[:1] and block[0].split()[0] in PROGRAMS:
                yield number - len(block), block
            block = []


def _bare(line: str) -> str:
    """A line without its prompt and comment."""
    return re.sub(r"\s+#\s.*$", "", line.removeprefix("$ ")).strip()


def _rounds(command: Command) -> Iterator[Command]:
    loop = _LOOP.fullmatch(command.text)
    if loop is None:
        yield command
        return
    for value in loop["values"].split():
        yield replace(command, text=loop["body"].replace(f"${loop['name']}", value).strip())


def check(arguments: list[str]) -> None:
    """Hold arguments of famseg against its commands and options, and keys against the sections."""
    name, command, rest = _command(arguments)
    context = command.make_context(" ".join(name), rest)
    config = context.params.get("config")
    if name in _TAKES_CONFIG:
        for file in [config] if isinstance(config, str) else config or []:
            overrides = context.params.get("overrides") or context.params.get("arguments") or []
            load(file, [each for each in overrides if "=" in each])


def _command(arguments: list[str]) -> tuple[tuple[str, ...], TyperCommand, list[str]]:
    command: TyperCommand | TyperGroup = typer.main.get_command(app)
    name: tuple[str, ...] = ()
    rest = [each for each in arguments if each != "--debug"]
    while isinstance(command, TyperGroup):
        if command.invoke_without_command and (not rest or rest[0].startswith("-")):
            break
        assert rest, f"famseg {' '.join(name)}: no command"
        assert rest[0] in command.commands, f"famseg has no command {rest[0]}"
        command, name, rest = command.commands[rest[0]], (*name, rest[0]), rest[1:]
    return name, command, rest
