"""The command on untrusted files: names that are markup, and modules next to the data."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from chromium import chromium, listening
from command import environment

from famseg.datasets import phantom
from famseg.volumes import Volume, write_volume

NAMES = (
    "<img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "[red]rich",
    '=HYPERLINK("http:evil")',
    "\u202egnp",
)
NO_TEXT = "\udcff\udcfe.nii"
BROKEN = "<script>alert(1)<"  # with the folder below it, "</script>"


class Prepared(NamedTuple):
    """A run of `famseg prepare` on files with such names."""

    out: Path
    beside: Path
    done: subprocess.CompletedProcess[bytes]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Run the installed command in a folder of modules that would be noticed if imported."""
    command = Path(sys.executable).with_name("famseg")
    if not command.is_file():
        pytest.skip("the command famseg is not installed")
    folder = tmp_path_factory.mktemp("hostile")
    beside, source = folder / "beside", folder / "source"
    beside.mkdir()
    for module in ("multiprocessing", "mlflow", "SimpleITK", "json", "famseg", "pickle"):
        (beside / f"{module}.py").write_text("open('ran', 'w').close()\n")
    for name in NAMES:
        skull = Volume(phantom(0, 0, 32), np.diag([7.0, 7.0, 7.0, 1.0]))
        (source / name).mkdir(parents=True)
        write_volume(skull, folder / "head.nii.gz")
        (folder / "head.nii.gz").rename(source / name / f"{name}.nii.gz")
    (source / BROKEN / "script>").mkdir(parents=True)
    (source / BROKEN / "script>" / "a.nii").write_text("no volume")
    (source / NO_TEXT).write_bytes(b"x")
    done = subprocess.run(
        [
            *(str(command), "prepare", str(source), "--out", str(folder / "out")),
            *("--size", "32", "--spacing-mm", "7", "--workers", "1"),
        ],
        cwd=beside,
        env=environment(folder),
        capture_output=True,
        check=False,
        umask=0o077,
        timeout=250,
    )
    return Prepared(folder / "out", beside, done)


@pytest.mark.slow
def test_modules_in_the_working_folder_are_not_run(prepared: Prepared) -> None:
    assert prepared.done.returncode == 1, prepared.done.stderr.decode()
    assert sorted(path.suffix for path in prepared.beside.iterdir()) == [".py"] * 6


@pytest.mark.slow
def test_names_are_printed_as_text(prepared: Prepared) -> None:
    printed = (prepared.done.stdout + prepared.done.stderr).decode()
    assert f"{len(NAMES)} of {len(NAMES) + 2}" in printed
    assert r"is not UTF-8 text: rename it" in printed
    assert all(sign.isprintable() or sign == "\n" for sign in printed), repr(printed)


@pytest.mark.slow
def test_tables_hold_no_formula(prepared: Prepared) -> None:
    rows = list(csv.DictReader(io.StringIO((prepared.out / "report.csv").read_text())))
    assert len(rows) == len(NAMES) + 2
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert any(cell.startswith("'=HYPERLINK") for cell in cells)


@pytest.mark.slow
def test_what_is_written_is_as_private_as_the_user_wants(prepared: Prepared) -> None:
    modes = {
        path.relative_to(prepared.out).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in prepared.out.rglob("*")
    }
    assert len(modes) > 15
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


@pytest.fixture(scope="module")
def page(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The report in a browser, with its requests and errors."""
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1000, "height": 800})
        shown = listening(opened, kinds=("error", "warning", "info", "log"))
        shown.goto((prepared.out / "report.html").as_uri())
        shown.wait_for_load_state("load")
        yield shown


@pytest.mark.slow
def test_the_report_runs_nothing_of_others_and_shows_its_images(page: object) -> None:
    assert page.said == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in page.asked if url.startswith("file:")]) == 1
    assert page.locator("iframe, object, embed, form, a, [onerror]").count() == 0
    assert page.locator("script").count() == 1, "our own"
    assert page.locator("#choice").is_visible(), "it ran: its hash in the policy is right"
    widths = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.clientWidth])")
    # An overview of each, and slices in three views with outlines of the bone.
    assert len(widths) == 7 * len(NAMES)
    assert all(natural > 100 and seen > 100 for natural, seen in widths)
    text = page.locator("body").inner_text()
    assert "<img src=x onerror=alert(1)>" in text
    assert f"{BROKEN}/script>/a.nii" in text
    assert r"\x1b[31mred" in text
    # The style applies: its hash in the policy is that of the style.
    font = page.evaluate("getComputedStyle(document.querySelector('article')).borderTopWidth")
    assert font == "1px"


@pytest.mark.slow
def test_the_policy_stops_what_somebody_adds(page: object, prepared: Prepared) -> None:
    text = (prepared.out / "report.html").read_text()
    added = "<script>alert(1)</script><img src=http://127.0.0.1:9/x><style>*{color:red}</style>"
    changed = prepared.out.parent / "changed.html"
    changed.write_text(text.replace("</body>", f"{added}</body>"))
    page.said.clear()
    page.goto(changed.as_uri())
    page.wait_for_load_state("load")
    assert len([line for line in page.said if "Content Security Policy" in line]) == 3
    assert "1" not in page.said, "the alert"


def test_names_of_configurations_are_printed_as_text(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "famseg", "config", "check", "\x1b[31mred\n\udcff.yaml"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert done.returncode == 2
    assert done.stderr.decode().startswith(r"famseg: \x1b[31mred\n\udcff.yaml: there is no such")
    assert done.stderr.count(b"\n") == 1


def test_json_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    from famseg.cli._say import say_json

    say_json({"subject": "Schädel \x1b[31m \udcff"})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed) == {"subject": "Schädel \x1b[31m \udcff"}
