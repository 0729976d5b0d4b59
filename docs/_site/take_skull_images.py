"""Takes the images of skulls: for the landing page, the README and docs/gallery.md.

    python docs/_site/take_skull_images.py [NAME ...]

Draws phantoms, the defects that famseg cuts into them, one reconstruction from start to end, and
the report of `famseg prepare` on simulated CT of phantoms. NAMEs, such as `skull-steps.png`, limit
what is drawn. Takes two minutes of one core. `prepare-report.png` needs Debian's chromium. No image
shows a patient: every skull is a phantom.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from famseg.datasets import RegionDefect, inject, phantom
from famseg.meshes import Mesh, surface_mesh
from famseg.preparation import Scan
from famseg.reconstruction import Options, load_network, reconstruct
from famseg.reporting import BONE, IMPLANT, shaded_views, side_of, three_sides
from famseg.volumes import Volume, write_volume

IMAGES = Path(__file__).parents[1] / "images"
SIZE, SPACING_MM = 128, 1.75
SPACING = (SPACING_MM,) * 3
AFFINE = np.diag([*SPACING, 1.0])
FRONT, RIGHT, TOP = three_sides(270)
UNSEEN = 1000  # a subject that the built-in network was not trained on
COLORS = 64  # enough for shaded bone; keeps each file far below 150 kB
PANEL, CAPTION = 380, 34  # pixels
# With the side from which each is seen; None for the side that it is on.
DEFECTS = {"frontoorbital": FRONT, "parietotemporal": None, "bilateral": TOP, "random_1": None}
AIR_HU, WATER_HU, BONE_HU = -1000.0, 40.0, 900.0

Mask = NDArray[np.bool_]
Surface = tuple[Mesh, NDArray[np.uint8]]


def colored(mesh: Mesh, color: tuple[int, int, int]) -> Surface:
    """Return a mesh with its color, as `shaded_views` takes it."""
    return mesh, np.array(color, dtype=np.uint8)


def bone_of(mask: Mask) -> Surface:
    """Return the surface of a skull in the color of bone."""
    return colored(surface_mesh(mask, AFFINE), BONE)


def save(sheet: Image.Image, name: str) -> None:
    """Write an image with few colors."""
    sheet.convert("RGB").quantize(COLORS).save(IMAGES / name, optimize=True)


def row(panels: list[tuple[str, Any, list[Surface]]], name: str) -> None:
    """Draw surfaces side by side, each named below, from a side of `three_sides`."""
    sheet = Image.new("RGB", (PANEL * len(panels), PANEL + CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for number, (caption, side, surfaces) in enumerate(panels):
        view = Image.open(io.BytesIO(shaded_views(surfaces, [side])))
        sheet.paste(view.convert("RGB"), (number * PANEL, 0))
        middle = (number * PANEL + PANEL // 2, PANEL + CAPTION // 2)
        draw.text(middle, caption, fill=(40, 40, 40), font=font, anchor="mm")
    save(sheet, name)


def phantoms() -> None:
    """Draw four subjects: no two have the same measures."""
    skulls = (phantom(n, 0, SIZE, SPACING_MM) for n in range(4))
    row(
        [(f"subject {n}", RIGHT, [bone_of(skull)]) for n, skull in enumerate(skulls)],
        "skull-phantoms.png",
    )


def defects() -> None:
    """Draw one defect of each class."""
    skull = phantom(0, 0, SIZE, SPACING_MM)
    panels = []
    for where, side in DEFECTS.items():
        defective, region = inject(skull, RegionDefect(where), SPACING, np.random.default_rng(3))
        bone = bone_of(defective)
        if side is None:
            removed = surface_mesh(skull & region, AFFINE)
            side = three_sides(side_of(removed, bone[0])[0])[1]
        panels.append((where, side, [bone]))
    row(panels, "skull-defects.png")


def steps() -> None:
    """Draw a skull, its defect, the implant of the built-in network, and all of it in place."""
    skull = phantom(UNSEEN, 0, SIZE, SPACING_MM)
    generator = np.random.default_rng(0)
    defective, _ = inject(skull, RegionDefect("parietotemporal"), SPACING, generator)
    scan = Scan(Volume(defective, AFFINE), "mask")
    result = reconstruct(scan, load_network("builtin"), Options())
    bone = colored(result.skull_mesh, BONE)
    implant = colored(result.implant_mesh, IMPLANT)
    panels = [
        ("phantom", RIGHT, [bone_of(skull)]),
        ("skull with a defect", RIGHT, [bone]),
        ("predicted implant in place", RIGHT, [bone, implant]),
    ]
    row(panels, "skull-steps.png")


def write_ct(folder: Path) -> None:
    """Write simulated CT of phantoms: whole, cut off, and with a hole that is there already."""
    whole, short, holed = (phantom(n, 0, SIZE, SPACING_MM) for n in range(3))
    vault = np.flatnonzero(short.any(axis=(0, 1)))[-1]
    generator = np.random.default_rng(0)
    scans = {
        "head0": ct(whole),
        "head1": ct(short)[:, :, : vault - 8],  # the scan ends below the vertex
        "head2": ct(inject(holed, RegionDefect("parietotemporal"), SPACING, generator)[0]),
    }
    for name, values in scans.items():
        write_volume(Volume(values, AFFINE), folder / f"{name}.nii.gz")


def ct(bone: Mask) -> NDArray[np.int16]:
    """Return CT values of a skull with a brain and skin, a little blurred and noisy."""
    skin = ndimage.binary_dilation(bone, iterations=4)
    body = ndimage.binary_closing(np.pad(skin, 14), iterations=14)[14:-14, 14:-14, 14:-14]
    values = np.where(bone, BONE_HU, np.where(body, WATER_HU, AIR_HU))
    noise = np.random.default_rng(0).normal(0, 15, bone.shape)
    scanned = ndimage.gaussian_filter(values, 0.5) + noise
    return np.asarray(scanned.clip(-1024), dtype=np.int16)


def prepare_report() -> None:
    """Take the report of `famseg prepare` in a browser."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "ct").mkdir()
        write_ct(folder / "ct")
        command = [sys.executable, "-m", "famseg", "prepare", "ct", "--out", "prepared"]
        command += ["--size", "112", "--spacing-mm", "2"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: S603
        with sync_playwright() as playwright:
            chromium = "/usr/bin/chromium"
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 1000})
            page.goto((folder / "prepared" / "report.html").as_uri())
            page.wait_for_timeout(1500)
            save(Image.open(io.BytesIO(page.screenshot())), "prepare-report.png")
            browser.close()


IMAGE_OF = {
    "skull-phantoms.png": phantoms,
    "skull-defects.png": defects,
    "skull-steps.png": steps,
    "prepare-report.png": prepare_report,
}


def main() -> None:
    """Draw what is asked for."""
    for name in sys.argv[1:] or IMAGE_OF:
        IMAGE_OF[name]()


if __name__ == "__main__":
    main()
