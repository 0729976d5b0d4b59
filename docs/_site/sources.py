"""A link from a page to a file or folder that is no page becomes a link to its source."""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

_SCHEME = "source:"
_FENCE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1", re.M | re.S)
_LINK = re.compile(r"(?<=\]\()(?!\w+:)(?P<path>[^)#\s]+)(?=\))")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sh": "bash", ".json": "json"}
_PLAIN = (*_LANGUAGES, ".md", ".txt", "")
_HIDDEN = ("__pycache__", ".")


class Sources:
    """The files and folders that pages link to."""

    def __init__(self) -> None:
        self._linked: set[str] = set()

    def mark(self, app: Sphinx, docname: str, source: list[str]) -> None:
        """Give links to sources a scheme of their own, which Markdown passes on untouched."""
        prose = _FENCE.sub(lambda code: " " * len(code[0]), source[0])
        text, end = "", 0
        for link in _LINK.finditer(prose):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(docname), link["path"]))
            target = Path(app.srcdir, path)
            if app.env.path2doc(path) in app.env.found_docs or not target.exists():
                continue
            if _is_image(target):
                continue
            self._linked.add(path)
            text += source[0][end : link.start()] + _SCHEME + path
            end = link.end()
        source[0] = text + source[0][end:]

    def resolve(self, app: Sphinx, doctree: nodes.document, docname: str) -> None:
        """Replace the scheme by the address of the source, seen from the page."""
        for link in doctree.findall(nodes.reference):
            address = link.get("refuri") or ""
            if address.startswith(_SCHEME):
                page = _page(address.removeprefix(_SCHEME))
                link["refuri"] = app.builder.get_relative_uri(docname, page)

    def pages(self, app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Yield a page for each linked file and folder, and for all that a folder holds."""
        waiting = sorted(self._linked)
        seen = set(waiting)
        for path in waiting:
            target = Path(app.srcdir, path)
            if target.is_dir():
                inner = [f"{path}/{each.name}" for each in sorted(target.iterdir()) if _shown(each)]
                body = _folder(app, path, inner)
                new = [each for each in inner if each not in seen and not _doc(app, each)]
                waiting += new
                seen.update(new)
            else:
                body = _file(app, target)
            title = html.escape(path)
            yield _page(path), {"title": title, "body": f"<h1>{title}</h1>{body}"}, "page.html"


def _page(path: str) -> str:
    return f"source/{path}"


def _doc(app: Sphinx, path: str) -> str | None:
    """Return the page that a path is, or the one that describes a folder."""
    for candidate in (app.env.path2doc(path), f"{path}/README"):
        if candidate in app.env.found_docs:
            return candidate
    return None


def _is_image(path: Path) -> bool:
    return path.suffix in (".png", ".svg")


def _shown(path: Path) -> bool:
    return not path.name.startswith(_HIDDEN) and (path.is_dir() or path.suffix in _PLAIN)


def _folder(app: Sphinx, path: str, inner: list[str]) -> str:
    def address(each: str) -> str:
        return app.builder.get_relative_uri(_page(path), _doc(app, each) or _page(each))

    items = (
        f'<li><a href="{address(each)}">{html.escape(posixpath.basename(each))}</a></li>'
        for each in inner
    )
    return f"<ul>{''.join(items)}</ul>"


def _file(app: Sphinx, path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return str(app.builder.highlighter.highlight_block(text, _LANGUAGES.get(path.suffix, "text")))  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, bool]:
    """Mark links as pages are read, and add the pages of their sources."""
    sources = Sources()
    app.connect("source-read", sources.mark)
    app.connect("doctree-resolved", sources.resolve)
    app.connect("html-collect-pages", sources.pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
