"""The architecture page shows the packages and the diagram of this version."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from _site.data_flow import PATH, data_flow  # noqa: E402


def test_the_diagram_is_up_to_date():
    assert PATH.read_text(encoding="utf-8") == data_flow(), "run: python docs/_site/data_flow.py"


def test_the_table_of_packages_is_that_of_the_import_rules():
    with (ROOT / "pyproject.toml").open("rb") as file:
        contract = tomllib.load(file)["tool"]["importlinter"]["contracts"][0]
    checked = [
        set(re.findall(r"[\w.]+", layer.replace("famseg.", ""))) for layer in contract["layers"]
    ]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("| packages |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == checked


def test_the_modules_that_contributing_names_exist():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.partition("`famseg.flatness`, from the outside in:")[2].partition("\n\nThe doc")[
        0
    ]
    named = set(re.findall(r"`(_\w+)`", section))
    folder = ROOT / "famseg" / "flatness"
    there = {path.stem for path in folder.rglob("_*.py")} | {path.name for path in folder.iterdir()}
    assert len(named) > 30
    assert named - there == set()
