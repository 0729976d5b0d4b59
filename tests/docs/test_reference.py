"""The pages of docs/reference that are written from the program are those of this version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from _site.configuration import described  # found through the line above
from _site.write_reference import DOCS, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_up_to_date(name):
    written = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), "run: python docs/_site/write_reference.py"


def test_every_key_is_described():
    bare = {
        key
        for key, field in described()
        if not field.description and key.rpartition(".")[2] not in ("kind", "pipeline")
    }
    assert bare == set()
