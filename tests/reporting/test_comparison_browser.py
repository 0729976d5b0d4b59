"""The page of several runs in a real browser; skipped where there is none."""

from __future__ import annotations

import pytest
from chromium import chromium, listening
from made_runs import FAM, make_run

from famseg.reporting import comparison_page, find_runs, render

DSC = "test/set1/implant/dsc"
EVIL = "<img src=x onerror=alert(1)>"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        make_run(folder, f"a{seed}", seed=seed, dsc=[0.8, 0.7, 0.6 + seed / 100])
        make_run(folder, f"b{seed}", seed=seed, settings=FAM, dsc=[0.9, 0.0, 0.7])
    make_run(folder, "evil", seed=5, settings=FAM, epochs=1).rename(folder / EVIL)
    path = folder / "comparison.html"
    path.write_text(render(comparison_page(find_runs([folder]))))
    return path


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def test_it_works_offline_says_nothing_and_sorts(browser, report):
    context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True)
    opened = listening(context.new_page())
    opened.goto(report.as_uri())
    assert opened.said == []
    assert all(url.startswith(("file:", "data:")) for url in opened.asked)
    drawn = "[...document.images].every(each => each.complete && each.naturalWidth > 0)"
    assert opened.evaluate(drawn)
    assert opened.locator(".findings li").first.is_visible()
    table = opened.locator("section, div.scroll", has_text="Every run that was found")
    failed = table.locator("tr.failed td").first
    assert failed.inner_text() == EVIL
    table.get_by_role("button", name="seed").click()
    seeds = table.locator("tbody td:nth-child(3)").all_inner_texts()
    assert seeds == sorted(seeds)
    context.close()


def test_a_phone_needs_no_sideways_scrolling(browser, report):
    phone = browser.new_page(viewport={"width": 390, "height": 844})
    phone.goto(report.as_uri())
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.close()


def test_inside_a_frame_that_allows_scripts_only_it_is_whole(browser, report, tmp_path):
    """So does MLflow show it: a frame with a sandbox, filled from a blob."""
    opened = browser.new_page()
    opened.set_content('<iframe sandbox="allow-scripts" width="900" height="600"></iframe>')
    opened.evaluate(
        "text => { document.querySelector('iframe').src = URL.createObjectURL("
        "new Blob([text], {type: 'text/html'})); }",
        report.read_text(),
    )
    frame = opened.frame_locator("iframe")
    frame.locator("h1").wait_for()
    color = "getComputedStyle(document.body).backgroundColor"
    inner = opened.frames[1]
    before = inner.evaluate(color)
    frame.get_by_role("button", name="Light or dark").click()
    assert inner.evaluate(color) != before
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_barrier_is_found(browser, report, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(bypass_csp=True, color_scheme=scheme)
    opened = context.new_page()
    opened.goto(report.as_uri())
    found = axe.run(opened).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], each["nodes"][0]["html"][:200]) for each in serious]
    context.close()
