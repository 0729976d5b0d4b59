"""Debian's Chromium, driven by Playwright; a test is skipped where one of the two is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path("/usr/bin/chromium")
# A busy machine takes its time.
PATIENCE_MS = 120_000
# WebGL without a GPU, for pages that draw in three dimensions.
WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """Give a browser.

    Args:
        flags: Of Chromium, such as `WEBGL`.
    """
    if not PROGRAM.exists():
        pytest.skip(f"no browser at {PROGRAM}: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        # In a container Chromium's own sandbox has no rights to be set up.
        browser = playwright.chromium.launch(
            executable_path=str(PROGRAM), args=["--no-sandbox", *flags]
        )
        browser.new_context = _patient(browser.new_context)
        browser.new_page = _patient(browser.new_page)
        yield browser
        browser.close()


def _patient(make: Callable[..., Any]) -> Callable[..., Any]:
    """Pages and contexts that wait longer than Playwright does."""

    def made(**options: Any) -> Any:
        new = make(**options)
        new.set_default_timeout(PATIENCE_MS)
        return new

    return made


def listening(page: Any, *, kinds: Collection[str] = ("error",)) -> Any:
    """Have a page note what it complains of, in ``said``, and asks for, in ``asked``.

    Args:
        page: A page of Playwright.
        kinds: The messages of the console that count.
    """
    page.said, page.asked = [], []
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("console", lambda m: page.said.append(m.text) if m.type in kinds else None)
    page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: page.asked.append(request.url))
    return page
