"""Every fenced ``python`` block of the README and of the pages in docs/ runs as it stands.

The blocks of a page run in order and share their names. A block with ``>>>`` is a doctest; there
``...`` in the expected output stands for anything. What must not run is fenced as something else
(``text``, ``console``).
"""

from __future__ import annotations

import doctest
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<info>[^`]*)")
_LINK = re.compile(r"\]\((?!\w+:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the number of its first line, from 1."""

    language: str
    source: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """Find the fenced blocks of a page."""
    opening: re.Match[str] | None = None
    begin, lines = 0, page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        fence = _FENCE.fullmatch(line)
        if opening is None:
            if fence is not None:
                opening, begin = fence, number
        elif fence is not None and _closes(fence, opening):
            width = len(opening["indent"])
            source = "".join(f"{text[width:]}\n" for text in lines[begin : number - 1])
            yield Block(opening["info"].split(" ")[0].strip(), source, begin + 1)
            opening = None
    assert opening is None, f"{page.name}:{begin}: the fence is never closed"


def _closes(fence: re.Match[str], opening: re.Match[str]) -> bool:
    return fence["ticks"].startswith(opening["ticks"]) and not fence["info"].strip()


def run(page: Path, name: str, module: types.ModuleType) -> None:
    """Run the blocks of a page in a module; say page and line of one that fails."""
    for block in blocks(page):
        if block.language != "python":
            continue
        try:
            if re.search(r"^\s*>>> ", block.source, re.MULTILINE):
                _doctest(block, name, module)
            else:
                # Line numbers of tracebacks, and of what reads its own source, are the page's.
                source = "\n" * (block.line - 1) + block.source
                code = compile(source, str(page), "exec", dont_inherit=True)
                exec(code, module.__dict__)  # noqa: S102 - the pages are ours
        except doctest.DocTestFailure as wrong:
            line, wanted, got = block.line + wrong.example.lineno, wrong.example.want, wrong.got
            said = f"{wrong.example.source}expected:\n{wanted}got:\n{got}"
            raise AssertionError(f"{name}:{line}: {said}") from None
        except doctest.UnexpectedException as unexpected:
            line, error = block.line + unexpected.example.lineno, unexpected.exc_info[1]
            raise AssertionError(f"{name}:{line}: {type(error).__name__}: {error}") from error
        except Exception as error:
            line = _line(error, page) or block.line
            raise AssertionError(f"{name}:{line}: {type(error).__name__}: {error}") from error


def _doctest(block: Block, name: str, module: types.ModuleType) -> None:
    parser = doctest.DocTestParser()
    test = parser.get_doctest(block.source, module.__dict__, name, name, block.line - 1)
    doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
    module.__dict__.update(test.globs)


def _line(error: BaseException, page: Path) -> int | None:
    """The line of a page that an error came from."""
    if isinstance(error, SyntaxError) and error.filename == str(page):
        return error.lineno
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(page):
            found = trace.tb_lineno
        trace = trace.tb_next
    return found


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """A module importable by name, as dataclasses and pickle want it; an empty current folder."""
    module = types.ModuleType("snippets")
    monkeypatch.setitem(sys.modules, "snippets", module)
    monkeypatch.chdir(tmp_path)
    return module


@pytest.mark.slow
# Raised inside torch's pytree, which Lightning uses; and advice of Lightning's about loaders.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_snippets_of_a_page_run(page, module):
    run(page, str(page.relative_to(ROOT)), module)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page):
    for link in _LINK.finditer(_prose(page)):
        target = page if not link["path"] else page.parent / link["path"]
        assert target.exists(), f"{page.name}: there is no {link['path']}"
        if link["anchor"] and target.suffix == ".md":
            assert link["anchor"] in anchors(target), f"{page.name}: no heading #{link['anchor']}"


def _prose(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        text = text.replace(block.source, "")
    return text


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *#*$", _prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {text.replace(" ", "-") for text in plain}


def written(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_blocks_share_names_and_only_python_runs(tmp_path, module):
    text = (
        "```python\nseen = [1]\n```\n"
        "```text\nseen.append(2)\n```\n"
        "````markdown\n```python\nseen.append(3)\n```\n````\n"
        "- in a list\n\n  ```python\n  seen.append(4)\n  ```\n\n"
        "```python\n>>> x = 5\n>>> seen\n[1, 4]\n```\n"
        "```python\nseen.append(x)\n```\n"
    )
    run(written(tmp_path, text), "page.md", module)
    assert module.__dict__["seen"] == [1, 4, 5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one\n\n```python\na = 1\nassert a == 2\n```\n", r"page\.md:5: AssertionError"),
        ("```python\na = = 1\n```\n", r"page\.md:2: SyntaxError"),
        (
            "```python\n>>> x = 1\n\n>>> x + 1\n3\n```\n",
            r"page\.md:4: x \+ 1\nexpected:\n3\ngot:\n2",
        ),
        ("```python\n>>> 1 / 0\n```\n", r"page\.md:2: ZeroDivisionError"),
        ("```python\na = 1\n", r"page\.md:1: the fence is never closed"),
    ],
    ids=["assertion", "syntax", "doctest", "unexpected exception", "open fence"],
)
def test_a_failing_block_is_named_with_page_and_line(tmp_path, module, text, said):
    with pytest.raises(AssertionError, match=said):
        run(written(tmp_path, text), "page.md", module)


def test_the_line_is_the_one_in_the_page_that_called(tmp_path, module):
    text = "```python\nimport json\n\n\njson.loads('{')\n```\n"
    with pytest.raises(AssertionError, match=r"page\.md:5: JSONDecodeError"):
        run(written(tmp_path, text), "page.md", module)


def test_anchors_are_those_of_github(tmp_path):
    page = written(tmp_path, "# Noise: $s^2$ and `every`\n\n```text\n# no heading\n```\n")
    assert anchors(page) == {"noise-s2-and-every"}
