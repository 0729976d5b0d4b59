"""Writes the pages of docs/reference that come from the program; `make docs` runs it."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS))

from _site.command_line import command_line_page  # noqa: E402 - found by the line above
from _site.configuration import configuration_page  # noqa: E402

PAGES = {"command-line.md": command_line_page, "configuration.md": configuration_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / "reference" / name).write_text(page(), encoding="utf-8")
