"""Words that famseg no longer uses: in comments, docstrings, messages, configurations and pages."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OLD = {
    r"\bmanieth\b": "every n-th",
    r"\bpictures?\b": "image",
    r"(?<!here )\bis no (mask|number|folder|file|run folder)\b": "is not a ...",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bdefects? of famseg\b": "bug in famseg",
    r"\bpenalis|\bnormalis|\bsummaris|\bcolour|\bneighbour|\bcentr(e|ed|es|ing)\b|\bgreys?\b": (
        "American spelling"
    ),
}
# Names: of files that users hold (the folder of a run, keys of checkpoints), and of variables.
ALLOWED = re.compile(
    r"picture_every|pictures/|/ ?\"pictures\"|\"penalised\"|penalised_s|_penalised_step"
    r"|data\.centre|^\"centre\"$"  # the old name of a key
    r"|^\"pictures\"$|^ +pictures: |\{[^{}]*pictures[^{}]*\}",
    re.MULTILINE,
)


def texts(path: Path) -> list[tuple[int, str]]:
    """Return the text of a file with line numbers, without Python names."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return list(enumerate(content.splitlines(), 1))
    kinds = (tokenize.COMMENT, tokenize.STRING)
    tokens = tokenize.generate_tokens(io.StringIO(content).readline)
    return [(each.start[0], each.string) for each in tokens if each.type in kinds]


def found(paths: list[Path]) -> list[str]:
    lines = []
    for path in paths:
        for number, text in texts(path):
            seen = ALLOWED.sub("", text)
            for pattern, better in OLD.items():
                match = re.search(pattern, seen)
                if match:
                    lines.append(f"{path}:{number}: {match[0]!r}: {better}")
    return lines


def test_old_words_do_not_come_back() -> None:
    paths = [
        *(ROOT / "famseg").rglob("*.py"),
        *(ROOT / "pipelines").rglob("*.py"),
        *(ROOT / "configs").rglob("*.yaml"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    ]
    assert len(paths) > 500
    assert found(paths) == []


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ('"""A picture."""', True),
        ("# it is no mask", True),
        ("pictures = 1", False),  # a name
        ('folder = path / "pictures"', False),
        ('key = "picture_every"', False),
    ],
)
def test_what_is_looked_for(text: str, is_found: bool, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text + "\n")
    assert bool(found([tmp_path / "a.py"])) == is_found
