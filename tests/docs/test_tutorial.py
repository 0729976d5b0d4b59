"""The tutorial runs from its first cell to its last, and shows what it says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from _site.notebook import to_markdown  # noqa: E402

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
RUNNER = ROOT / "docs" / "_site" / "run_tutorial.py"
LINK = re.compile(r"\]\((?!\w+:)(?P<path>[^)#\s]+)")
LARGEST = 400_000  # bytes, the images in it included


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def outputs(path: Path) -> list[list[str]]:
    """The kinds of results of each code cell: printed text, an image, a value."""
    return [
        [next(iter(output.get("data", {"text": ""}))) for output in cell["outputs"]]
        for cell in cells(path)
        if cell["cell_type"] == "code"
    ]


def printed(path: Path) -> str:
    texts = (
        output.get("text", [])
        for cell in cells(path)
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    )
    return "".join(line for text in texts for line in text)


def test_links_lead_somewhere_and_the_file_is_small():
    prose = "".join("".join(c["source"]) for c in cells(NOTEBOOK) if c["cell_type"] == "markdown")
    links = [link["path"] for link in LINK.finditer(prose)]
    assert links
    assert [path for path in links if not (NOTEBOOK.parent / path).exists()] == []
    assert NOTEBOOK.stat().st_size < LARGEST


def test_the_page_has_headings_code_results_and_described_images():
    page = to_markdown(NOTEBOOK.read_text(encoding="utf-8"))
    assert page.startswith("# Tutorial\n")
    assert "````python\ndef history(report):\n" in page
    assert "````text\nbone: " in page
    images = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,[\w+/=]+">', page)
    assert len(images) == 4
    assert all(len(described) > 20 for described in images)


@pytest.mark.nightly
@pytest.mark.slow
def test_the_cells_run_and_show_what_the_notebook_holds(tmp_path):
    out = tmp_path / "tutorial.ipynb"
    done = warm.run(str(RUNNER), str(out), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert outputs(out) == outputs(NOTEBOOK), "run: python docs/_site/run_tutorial.py"
    said = printed(out)
    # The network learns, and the implant of a skull it has not seen fits.
    (learned,) = re.findall(r"^validation DSC: (\S+) to (\S+) with lambda 0.02$", said, re.M)
    assert float(learned[1]) > float(learned[0]) + 0.1, said
    (dsc,) = re.findall(r"^DSC (\S+), border DSC", said, re.M)
    assert float(dsc) > 0.7, said
