"""Takes the images of docs/gallery.md in a browser: the page of a run, of a comparison, in MLflow.

    python docs/_site/take_report_images.py [FOLDER]

FOLDER holds `runs` and `mlflow.db`; without it, a small network is trained on small skulls with
four lambdas and two seeds, as for docs/compare-lambda.md. Needs Debian's chromium and the viewer
(`make viewer`).
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent))

from take_images import CHROMIUM, IMAGES, interface, train  # found by the line above

FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",  # WebGL without a GPU
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
COLORS = 96
WAIT_MS = 240_000
DRAWN = "section.viewer[data-drawn]"


def famseg(folder: Path, *arguments: str) -> None:
    """Run the command in a folder."""
    command = [sys.executable, "-m", "famseg", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: S603


def opened(browser: Browser, width: int, height: int, scheme: str = "light") -> Page:
    """Return an empty page of a size."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    return page


def shoot(page: Page, name: str) -> None:
    """Write an image of what is seen, with few colors."""
    page.wait_for_timeout(1500)
    image = Image.open(io.BytesIO(page.screenshot()))
    IMAGES.mkdir(exist_ok=True)
    image.convert("RGB").quantize(COLORS).save(IMAGES / name, optimize=True)


def take(folder: Path, browser: Browser) -> None:
    """Take all images of the pages of a folder."""
    run = sorted((folder / "runs").glob("*-lambda0.02-*"))[0]
    page = opened(browser, 1200, 900)
    page.goto((run / "report.html").as_uri())
    page.wait_for_selector(DRAWN)
    page.locator("section.viewer").first.scroll_into_view_if_needed()
    page.evaluate("document.querySelector('section.viewer').scrollIntoView()")
    shoot(page, "report-views.png")
    page.evaluate("document.querySelector('.figures').scrollIntoView()")
    shoot(page, "report-figures.png")
    page = opened(browser, 1200, 1150)
    page.goto((folder / "runs" / "comparison.html").as_uri())
    shoot(page, "comparison.png")
    page = opened(browser, 390, 844, "dark")
    page.goto((folder / "runs" / "comparison.html").as_uri())
    shoot(page, "comparison-phone.png")
    with interface(folder) as address:
        base, experiment = address.split("/#/")[0], address.split("/experiments/")[1].split("/")[0]
        run_id = json.loads((run / "tracking.json").read_text())["run_id"]
        page = opened(browser, 1400, 900)
        page.goto(f"{base}/#/experiments/{experiment}/runs/{run_id}/artifacts/report.html")
        page.wait_for_selector("iframe")
        page.locator("[data-component-id$='assistant.chat_panel.close']").click()
        frame = page.frame_locator("iframe")
        frame.locator(DRAWN).first.wait_for()
        frame.locator("section.viewer").first.evaluate("each => each.scrollIntoView()")
        shoot(page, "report-in-mlflow.png")


def main() -> None:
    """Train unless there are runs, write the pages and take the images."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if len(sys.argv) < 2:
            train(folder)
        famseg(folder, "report", "runs")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            take(folder, browser)
            browser.close()


if __name__ == "__main__":
    main()
