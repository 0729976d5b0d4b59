"""The sidebar is what docs/index.md lists: a heading is a group, a link in its list an entry."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from sphinx.application import Sphinx

INDEX = "docs/index"
RESULTS = "docs/results/README"
# Folders of pages that measurements make; each new page appears by itself.
MEASURED = ("docs/results/", "benchmarks/results/")
_LINE = re.compile(
    r"^## +(?P<group>.+)|^- \[(?P<title>[^\]]+)\]\((?P<path>[^)#:]+)\.(?:md|ipynb)\)", re.M
)


def groups(index: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each group with the titles and paths of its pages; paths begin at the repository."""
    found: dict[str, list[tuple[str, str]]] = {}
    group = ""
    for line in _LINE.finditer(index):
        if line["group"]:
            group = line["group"].strip()
        else:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(INDEX), line["path"]))
            found.setdefault(group, []).append((line["title"], path))
    yield from found.items()


def _add_trees(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == INDEX:
        for group, pages in groups(source[0]):
            entries = [f"{title} </{path}>" for title, path in pages]
            source[0] += _tree(entries, ":hidden:", f":caption: {group}")
    if docname == RESULTS:
        pages = sorted(each for each in app.env.found_docs if each.startswith(MEASURED))
        source[0] += _tree([f"/{page}" for page in pages if page != RESULTS], ":maxdepth: 1")


def _tree(entries: list[str], *options: str) -> str:
    lines = [*options, "", *entries]
    return "\n```{toctree}\n" + "\n".join(lines) + "\n```\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the trees as the pages are read."""
    app.connect("source-read", _add_trees)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
