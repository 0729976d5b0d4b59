"""Notebooks as pages: cells become Markdown, with the results that were saved in the notebook."""

from __future__ import annotations

import html
import json
from typing import Any

from sphinx.application import Sphinx

ENDING = ".ipynb"


def to_markdown(notebook: str) -> str:
    r"""Return a notebook, given as its JSON text, as Markdown.

    Text cells stand as they are, code in fences, text results in fences of their own, images as
    data URIs.

    Example:
        >>> cell = {"cell_type": "markdown", "source": ["# Title\n", "Text."]}
        >>> print(to_markdown(json.dumps({"cells": [cell]})))
        # Title
        Text.
    """
    return "\n\n".join(map(_cell, json.loads(notebook)["cells"]))


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return source
    return "\n\n".join([_fence(source, "python"), *map(_output, cell["outputs"])])


def _fence(text: str, language: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _fence("".join(output["text"]), "text")
    data = output["data"]
    if "image/png" in data:
        described = html.escape(output["metadata"].get("alt", ""), quote=True)
        return f'<img alt="{described}" src="data:image/png;base64,{data["image/png"]}">'
    return _fence("".join(data["text/plain"]), "text")


def _convert(app: Sphinx, docname: str, source: list[str]) -> None:
    if str(app.env.doc2path(docname)).endswith(ENDING):
        source[0] = to_markdown(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Read notebooks by the parser of Markdown, once they are Markdown."""
    app.add_source_suffix(ENDING, "markdown")
    app.connect("source-read", _convert, priority=100)  # before links are looked at
    return {"parallel_read_safe": True, "parallel_write_safe": True}
