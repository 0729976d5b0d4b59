"""The documentation as a site: built without a warning, and looked at in a browser."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import subprocess
import sys
import threading
from collections import defaultdict
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from chromium import chromium
from filelock import FileLock

ROOT = Path(__file__).parents[2]
PHONE = {"width": 390, "height": 844}
DARKEST_TEXT, BRIGHTEST_GROUND = 150, 60  # of 255, in dark mode

# Building imports all that is documented.
pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(900)]


class Links(HTMLParser):
    """Anchors and links of a page, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.update(values[key] or "" for key in ("id", "name") if key in values)
        if tag == "a" and values.get("href"):
            self.links.append(values["href"] or "")
        elif tag == "link" and "stylesheet" in (values.get("rel") or ""):
            self.loaded.append(values["href"] or "")
        elif tag in ("script", "img", "iframe", "source") and values.get("src"):
            self.loaded.append(values["src"] or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; several workers of pytest build it once."""
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    out, built = shared / "site", shared / "site.built"
    with FileLock(shared / "site.lock"):
        if not built.exists():
            command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-E", "-q"]
            command += ["-c", "docs", "-d", str(shared / "doctrees"), ".", str(out)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            built.touch()
    return out.resolve()


@pytest.fixture(scope="module")
def pages(site):
    return {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


@pytest.fixture(scope="module")
def address(site):
    """The site, served to this machine alone."""
    handler = partial(_Silent, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass

    def copyfile(self, source, outputfile):
        with contextlib.suppress(ConnectionError):  # a page that was left before it was whole
            super().copyfile(source, outputfile)


@pytest.fixture(scope="module")
def browser():
    with chromium("--disable-background-networking") as found:
        yield found


@pytest.fixture
def window(browser):
    """A window that notes faults: messages of the console, failed and foreign requests."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.faults = []
    page.on("console", lambda m: m.type == "error" and page.faults.append(m.text))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    # A request that the next page ends is no fault; one that is not answered is.
    page.on(
        "requestfailed",
        lambda r: r.failure == "net::ERR_ABORTED" or page.faults.append(f"{r.failure}: {r.url}"),
    )
    page.on(
        "request",
        lambda r: urlparse(r.url).hostname in ("127.0.0.1", None) or page.faults.append(r.url),
    )
    yield page
    context.close()


def test_no_link_is_dead(site, pages):
    dead = defaultdict(list)
    for path, page in pages.items():
        for link in page.links:
            parts = urlparse(link)
            if parts.scheme in ("http", "https", "mailto"):
                right = parts.scheme == "mailto" or re.fullmatch(
                    r"[\w.-]+\.\w+(:\d+)?", parts.netloc
                )
            else:
                target = path.parent / unquote(parts.path) if parts.path else path
                target = target.resolve() / "index.html" if target.is_dir() else target.resolve()
                anchored = parts.fragment and target.suffix == ".html" and target in pages
                right = target.exists() and (
                    not anchored or unquote(parts.fragment) in pages[target].anchors
                )
            if not right:
                dead[path.relative_to(site).as_posix()].append(link)
    assert not dead


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for path, page in pages.items():
        for each in page.loaded:
            parts = urlparse(each)
            assert parts.scheme in ("", "data"), f"{path.relative_to(site)} loads {each}"
            assert parts.scheme or (path.parent / unquote(parts.path)).exists()


def test_every_page_is_in_the_navigation(site, pages):
    index = site / "docs" / "index.html"
    listed = {(index.parent / urlparse(link).path).resolve() for link in pages[index].links}
    written = {path for path in pages if path.relative_to(site).parts[0] != "source"}
    made = ("index.html", "docs/index.html", "genindex.html", "py-modindex.html", "search.html")
    assert written - {site / name for name in made} - listed == set()


def test_every_page_is_whole_on_a_phone_in_the_dark(site, pages, address, window):
    window.set_viewport_size(PHONE)
    window.emulate_media(color_scheme="dark")
    bad = []
    for path in sorted(pages):
        name = path.relative_to(site).as_posix()
        if name == "index.html":
            continue  # leads on to docs/index.html at once
        window.goto(f"{address}/{name}")
        wide = window.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        if wide > 0:
            bad.append(f"{name}: {wide} pixels too wide")
        text, ground = window.evaluate(
            "[getComputedStyle(document.querySelector('article, body')).color,"
            " getComputedStyle(document.body).backgroundColor]"
        )
        if brightness(text) < DARKEST_TEXT or brightness(ground) > BRIGHTEST_GROUND:
            bad.append(f"{name}: {text} on {ground}")
    assert bad == []
    assert window.faults == []


def brightness(color: str) -> float:
    """Of a color as browsers state it, from 0 to 255."""
    red, green, blue = (float(number) for number in re.findall(r"[\d.]+", color)[:3])
    return 0.299 * red + 0.587 * green + 0.114 * blue


@pytest.mark.parametrize(
    ("words", "title"),
    [
        ("Wilcoxon", "Comparing runs"),
        ("early_stopping", "Configuration keys"),
        ("feature_robustness", "feature_robustness"),
        ("DICOM series", "Your own CT data"),
    ],
)
def test_search_finds(address, window, words, title):
    window.goto(f"{address}/search.html?q={words}")
    window.locator("ul.search li a").first.wait_for()
    window.get_by_text(re.compile("Search finished|found")).first.wait_for()
    found = window.locator("ul.search li a").all_inner_texts()
    assert any(title in each for each in found), found
    assert window.faults == []


def test_code_is_copied_without_prompts_and_results(address, window):
    window.goto(f"{address}/docs/own-loop.html")
    block = window.locator("div.highlight").filter(has_text="find_layer(model").first
    block.hover()
    block.locator("button.copybtn").click()
    window.wait_for_function("navigator.clipboard.readText().then(text => text.length > 0)")
    copied = window.evaluate("navigator.clipboard.readText()")
    assert copied.splitlines()[0] == "from famseg.flatness import find_layer"
    assert ">>>" not in copied
    assert "Traceback" not in copied


def test_formulas_are_drawn(address, window):
    window.goto(f"{address}/docs/flatness.html")
    assert window.locator("math").count() > 100
    height = window.locator(".formula math").first.evaluate("e => e.getBoundingClientRect().height")
    assert height > 20


def test_the_front_page_leads_to_the_documentation(address, window):
    window.goto(address)
    window.wait_for_url("**/docs/index.html")
    assert window.get_by_role("heading", level=1).inner_text().startswith("famseg")
