"""The messages that docs/faq.md quotes are those of the program."""

from __future__ import annotations

import ast
import doctest
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from shell import ROOT, Command, shell_commands  # found through the line above

from famseg.cli import main

FAQ = ROOT / "docs" / "faq.md"
# Of a quoted message this share must be words of one text in the source; the rest is path names.
LEAST = 0.5


def quoted() -> list[str]:
    """The messages that a test can hardly produce: disks that are full, networks that diverge."""
    return re.findall(r"^```text\n(.+)\n```$", FAQ.read_text(encoding="utf-8"), re.MULTILINE)


def texts() -> Iterator[tuple[str, ...]]:
    """The fixed parts of every text of the source, between what is filled in."""
    for path in ROOT.glob("famseg/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield tuple(
                    str(part.value) if isinstance(part, ast.Constant) else ""
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield (node.value,)


def share(message: str, text: tuple[str, ...]) -> float:
    """How much of a message are the fixed words of a text that it ends with."""
    if not all(part in message for part in text):  # far cheaper than the pattern
        return 0.0
    pattern = "".join(re.escape(part) if part else "(.+?)" for part in text)
    match = re.search(f"{pattern}$", message)
    if match is None:
        return 0.0
    filled = sum(len(group or "") for group in match.groups())
    return (len(match[0]) - filled) / len(message)


@pytest.fixture(scope="module")
def known() -> list[tuple[str, ...]]:
    return [text for text in texts() if sum(map(len, text)) > 20]


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_in_the_source(message, known):
    message = message.removeprefix("famseg: ")
    assert max(share(message, text) for text in known) > LEAST


@pytest.mark.parametrize("command", shell_commands(FAQ), ids=lambda command: command.text)
def test_a_command_prints_what_the_page_says(
    command: Command, tmp_path, monkeypatch, capsys, recwarn
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command.words())
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert doctest.OutputChecker().check_output(command.output, said, doctest.ELLIPSIS), said
