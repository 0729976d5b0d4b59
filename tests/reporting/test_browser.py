"""Pages in a real browser, with the real viewer; skipped where one of the two cannot be had."""

from __future__ import annotations

import io
import json
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from chromium import WEBGL, chromium, listening
from PIL import Image
from scenes import EVIL, page

from famseg.reporting import _scene, render

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "requirements"))

import viewer

DRAWN = "section.viewer[data-drawn]"
# A program draws every pixel, so no more than a computer's screen needs.
SCREEN = {"width": 1000, "height": 640}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def real_viewer():
    """The viewer, for as long as pages are written; fetched where it was not installed."""
    with pytest.MonkeyPatch.context() as patch:
        if _scene.viewer_source() is None:
            vendor = viewer.ROOT / viewer.VENDOR
            wanted = json.loads((vendor / "niivue.json").read_text())
            try:
                content = viewer.member(viewer.fetch(wanted["address"]), wanted)
            except (OSError, urllib.error.URLError) as error:
                pytest.skip(f"the viewer cannot be had ({error}): make viewer")
            patch.setattr(_scene, "_vendored", lambda: content)
        yield


@pytest.fixture(scope="module")
def report(tmp_path_factory, real_viewer):
    """A page with everything in it, as a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(page()))
    return path


@pytest.fixture(scope="module")
def browser():
    with chromium(*WEBGL) as found:
        yield found


@pytest.fixture(scope="module")
def shown(browser, report):
    """The page, open and drawn; with what it said and asked for."""
    context = browser.new_context(viewport=SCREEN, offline=True)
    opened = listening(context.new_page())
    opened.goto(report.as_uri())
    opened.wait_for_selector(DRAWN)
    yield opened
    context.close()


def pixels(opened, unlike=None):
    """Return the canvas as people see it, once it has settled.

    Args:
        opened: The page.
        unlike: What it showed before: it is waited for until it shows something else.
    """
    before = None
    for _ in range(400):
        opened.wait_for_timeout(50)
        image = Image.open(io.BytesIO(opened.locator(".stage canvas").screenshot()))
        now = np.asarray(image.convert("RGB")).astype(int)
        settled = before is not None and np.array_equal(now, before)
        if settled and (unlike is None or np.abs(now - unlike).max() > 20):
            return now
        before = now
    raise AssertionError("the canvas never comes to rest, or never changes")


def test_it_works_offline_and_says_nothing(shown):
    assert shown.said == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in shown.asked)
    assert EVIL in shown.locator("h1").inner_text()


def test_every_control_changes_the_image(shown):
    seen = pixels(shown)
    assert seen.std() > 10  # something is drawn

    def changes(act):
        nonlocal seen
        act()
        seen = pixels(shown, unlike=seen)

    def press(name):
        return lambda: shown.get_by_role("button", name=name, exact=True).click()

    changes(press("3D"))
    changes(press("Left"))
    changes(press("Top"))
    changes(lambda: shown.get_by_label("Implant", exact=True).uncheck())
    changes(lambda: shown.get_by_label("Implant", exact=True).check())
    changes(lambda: shown.get_by_label("Opacity of Skull").fill("0.3"))
    changes(press("Slices in 3D"))
    canvas = shown.locator(".stage canvas")
    canvas.focus()
    changes(lambda: shown.keyboard.press("ArrowLeft"))
    changes(lambda: shown.keyboard.press("+"))
    changes(press("Axial"))
    changes(lambda: shown.get_by_label("Opacity of Masks in the slices").fill("0.2"))
    changes(lambda: shown.get_by_label("Masks in the slices", exact=True).uncheck())
    changes(lambda: shown.get_by_label("Masks in the slices", exact=True).check())
    canvas.focus()
    changes(lambda: shown.keyboard.press("PageUp"))
    assert shown.said == []


def test_a_distance_can_be_measured(shown):
    shown.get_by_role("button", name="Axial", exact=True).click()
    shown.get_by_role("button", name="Measure").click()
    before = pixels(shown)
    box = shown.locator(".stage canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    shown.mouse.move(x - 90, y)
    shown.mouse.down()
    shown.mouse.move(x + 90, y, steps=5)
    shown.mouse.up()
    pixels(shown, unlike=before)
    shown.get_by_role("button", name="Measure").click()


def test_the_image_can_be_saved(shown, tmp_path):
    with shown.expect_download() as waiting:
        shown.get_by_role("button", name="Save as PNG").click()
    waiting.value.save_as(tmp_path / "saved.png")
    assert waiting.value.suggested_filename == "case.png"
    assert np.asarray(Image.open(tmp_path / "saved.png").convert("RGB")).std() > 5


def test_columns_sort_by_value_and_missing_ones_come_last(shown):
    def sort(index):
        shown.locator(f"table.sortable th:nth-child({index + 1}) button").click()
        return shown.locator(f"table.sortable tbody td:nth-child({index + 1})").all_inner_texts()

    missing = "\N{EN DASH}"
    assert sort(1) == ["0.000", "0.800", "0.900"]
    assert sort(1) == ["0.900", "0.800", "0.000"]
    assert sort(2) == ["2.0", "120.0", missing]
    assert sort(2) == ["120.0", "2.0", missing]
    assert sort(0)[1:] == ["a9", "a10"]  # numbers inside names count as such


def test_the_theme_can_be_switched(shown):
    color = "getComputedStyle(document.body).backgroundColor"
    before = shown.evaluate(color)
    shown.get_by_role("button", name="Light or dark").click()
    assert shown.evaluate(color) != before
    shown.get_by_role("button", name="Light or dark").click()
    assert shown.evaluate(color) == before


def test_print_shows_the_still_and_no_controls(shown):
    shown.emulate_media(media="print")
    assert [each.is_visible() for each in shown.locator(".viewer-still img").all()] == [True] * 2
    assert not shown.locator(".viewer-controls").is_visible()
    shown.emulate_media(media="screen")
    assert not shown.locator(".viewer-still").is_visible()


@pytest.mark.nightly
def test_a_phone_needs_no_sideways_scrolling(browser, report):
    phone = browser.new_page(viewport={"width": 390, "height": 844})
    phone.goto(report.as_uri())
    phone.wait_for_selector(DRAWN)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.close()


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.nightly)])
def test_no_serious_barrier_is_found(browser, report, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # axe is a script from outside, which the page's own policy forbids.
    context = browser.new_context(bypass_csp=True, color_scheme=scheme)
    opened = context.new_page()
    opened.goto(report.as_uri())
    opened.wait_for_selector(DRAWN)
    # Only colors depend on the scheme.
    rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else None
    found = axe.run(opened, options=rules).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], each["nodes"][0]["html"][:200]) for each in serious]
    context.close()
