"""CITATION.cff agrees with the metadata of the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

import famseg

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def citation() -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return found


def test_version_licence_and_authors_are_those_of_the_package(citation):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"] == famseg.__version__
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]


def test_the_papers_are_those_that_the_mathematics_rests_on(citation):
    sources = (ROOT / "docs/flatness.md").read_text(encoding="utf-8").partition("## Sources")[2]
    assert [paper["url"] for paper in citation["references"]] == [
        "https://arxiv.org/abs/2307.02337",
        "https://arxiv.org/abs/2001.00939",
        "https://arxiv.org/abs/2510.14231",
    ]
    for paper in citation["references"]:
        assert paper["authors"][0]["family-names"] in sources
        assert " ".join(sources.split()).count(paper["title"]) == 1
