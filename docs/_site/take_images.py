"""Takes the images of docs/compare-lambda.md in a browser, from trainings of a minute.

    python docs/_site/take_images.py

Needs Debian's chromium. Trains a small network on small skulls with four lambdas and two seeds,
opens `famseg ui` and writes docs/images.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parents[1] / "images"
CHROMIUM = "/usr/bin/chromium"
LAMBDAS = ("0", "0.002", "0.02", "0.2")
SEEDS = ("0", "1")
SMALL = ("training.epochs=12", "training.picture_every=4", "data.subjects=20", "schedule.warmup=1")
COLORS = 64  # enough for charts; keeps each file below 150 kB


def train(folder: Path) -> None:
    """Leave runs and a store in a folder."""
    for weight in LAMBDAS:
        for seed in SEEDS:
            command = [sys.executable, "-m", "famseg", "train", "--config", "smoke/skull.yaml"]
            command += [f"lambda={weight}", f"seed={seed}", *SMALL]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: S603


@contextmanager
def interface(folder: Path) -> Iterator[str]:
    """Give the address of the comparison while the MLflow UI runs."""
    command = [sys.executable, "-m", "famseg", "ui", "--port", "0", "--json", "--no-browser"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        try:
            yield json.loads(server.stdout.readline())["compare"]  # type: ignore[union-attr]
        finally:
            server.terminate()


def shoot(page: Page, name: str, clip: dict[str, float] | None = None) -> None:
    """Write an image of the page with few colors."""
    page.wait_for_timeout(1500)  # charts are drawn with a movement
    image = Image.open(io.BytesIO(page.screenshot(clip=clip)))  # type: ignore[arg-type]
    IMAGES.mkdir(exist_ok=True)
    image.convert("RGB").quantize(COLORS).save(IMAGES / name, optimize=True)


def show(address: str) -> None:
    """Take all images."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(240_000)
        page.goto(address)
        page.get_by_text("Parallel Coordinates").first.wait_for()
        page.locator(".js-plotly-plot .scatterlayer .point").first.wait_for()
        page.locator("[data-component-id$='assistant.chat_panel.close']").click()
        shoot(page, "over-lambda.png")
        for section, name in (("Results", "results.png"), ("Curves", "curves.png")):
            page.get_by_text(section, exact=True).first.scroll_into_view_if_needed()
            page.mouse.wheel(0, 100)
            shoot(page, name)
        page.goto(address.replace("&compareRunsMode=CHART", ""))
        page.get_by_text("lambda=0.2 seed=0").first.wait_for()
        shoot(page, "runs.png")
        browser.close()


def main() -> None:
    """Train, open the interface and take the images."""
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder))
        with interface(Path(folder)) as address:
            show(address)


if __name__ == "__main__":
    main()
