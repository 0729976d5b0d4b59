"""Pages of reconstructions in a real browser, with the real viewer."""

from __future__ import annotations

import numpy as np
import pytest
from chromium import listening
from made_cases import make_case, make_output
from test_browser import DRAWN, SCREEN, browser, pixels, real_viewer  # noqa: F401  # fixtures

from famseg.reporting import write_reconstruction_pages

EVIL = "<img src=x onerror=alert(1)>"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory, real_viewer):  # noqa: F811
    """The pages of two cases."""
    folder = tmp_path_factory.mktemp("out")
    make_output(folder, {"c3": EVIL})
    make_case(folder, "a10", 0.9)
    make_case(folder, "a9", 0.4, warnings=(EVIL,))
    write_reconstruction_pages(folder)
    return folder


@pytest.fixture(scope="module")
def shown(browser, out):  # noqa: F811
    """The page of a case, reached from that of all cases, without a network."""
    context = browser.new_context(viewport=SCREEN, offline=True)
    opened = listening(context.new_page())
    opened.goto((out / "report.html").as_uri())
    opened.first = opened.locator("tbody td:first-child").all_inner_texts()
    opened.locator("table.sortable th:nth-child(2) button").click(click_count=2)
    opened.sorted = opened.locator("tbody td:first-child").all_inner_texts()
    opened.get_by_role("link", name="a9", exact=True).click()
    opened.wait_for_selector(DRAWN)
    yield opened
    context.close()


def test_the_list_sorts_and_leads_to_a_case_offline(shown):
    assert shown.first == ["a9", "a10"]  # the lowest confidence first
    assert shown.sorted == ["a10", "a9"]
    assert shown.locator("h1").inner_text() == "Reconstruction of a9"
    assert shown.said == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in shown.asked)
    assert "Low confidence" in shown.locator(".alert").inner_text()


def test_every_switch_changes_what_is_seen(shown):
    seen = pixels(shown)

    def changes(act):
        nonlocal seen
        act()
        seen = pixels(shown, unlike=seen)

    def box(name):
        return shown.get_by_label(name, exact=True)

    def press(name):
        return lambda: shown.get_by_role("button", name=name, exact=True).click()

    changes(press("3D"))
    changes(lambda: box("Implant, by confidence").check())
    assert not box("Implant").is_checked(), "both are in one place"
    changes(lambda: box("Completed skull").check())
    assert not box("Input skull").is_checked()
    assert not box("Implant, by confidence").is_checked()
    changes(lambda: box("Input skull").check())
    changes(press("Slices in 3D"))
    changes(press("Axial"))
    changes(lambda: box("Slices: confidence map").check())
    changes(lambda: box("Slices: skull and implant").uncheck())
    assert shown.said == []


def test_the_patients_right_is_on_the_left_of_the_slices(shown):
    """The implant of the case is at the right and at the front."""
    shown.reload()
    shown.wait_for_selector(DRAWN)
    shown.get_by_role("button", name="Axial", exact=True).click()
    image = pixels(shown)
    blue = np.abs(image - (0, 114, 178)).max(axis=2) < 30
    assert blue.sum() > 200
    bone = np.abs(image - (222, 212, 192)).max(axis=2) < 30
    rows, columns = (
        np.nonzero(blue)[axis].mean() - np.nonzero(bone)[axis].mean() for axis in (0, 1)
    )
    assert columns < -10, "to the left"
    assert rows < -10, "and to the top"


@pytest.mark.parametrize("name", ["report.html", "a9/report.html"])
def test_a_phone_needs_no_sideways_scrolling_and_no_serious_barrier_is_found(browser, out, name):  # noqa: F811
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # axe is a script from outside, which the page's own policy forbids.
    context = browser.new_context(bypass_csp=True, viewport={"width": 390, "height": 844})
    opened = context.new_page()
    opened.goto((out / name).as_uri())
    if name != "report.html":
        opened.wait_for_selector(DRAWN)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    found = axe.run(opened).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], each["nodes"][0]["html"][:200]) for each in serious]
    context.close()
