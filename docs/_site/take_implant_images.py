"""Takes the images of docs/reconstruct.md: a phantom with a hole, what is found in it, its implant.

    python docs/_site/take_implant_images.py

Takes a minute of one core. Colors: bone, implant.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from implant_images import BONE, IMPLANT, beside, render, save, slices  # found by the line above

from famseg.datasets import RegionDefect, Volume, inject, phantom
from famseg.preparation import Scan
from famseg.reconstruction import Options, load_network, reconstruct

IMAGES = Path(__file__).parents[1] / "pictures"
SIZE, SPACING_MM = 128, 1.75


def main() -> None:
    """Write the images."""
    spacing = (SPACING_MM,) * 3
    skull = phantom(0, 0, SIZE, SPACING_MM)
    generator = np.random.default_rng(0)
    holed, _ = inject(skull, RegionDefect("parietotemporal"), spacing, generator)
    scan = Scan(Volume(holed, np.diag([*spacing, 1.0])), "mask")
    result = reconstruct(scan, load_network("builtin"), Options())
    bone, implant = (result.skull_mesh, BONE), (result.implant_mesh, IMPLANT)
    side = "left" if result.implant_mesh.centroid_mm[0] < SIZE * SPACING_MM / 2 else "right"
    views = ("front", side, "top")
    save(beside([render([bone], view, 360) for view in views]), IMAGES / "implant-defect.png")
    both = beside([render([bone, implant], view, 360) for view in views])
    save(both, IMAGES / "implant-placed.png")
    alone = [render([implant], view, 360) for view in views]
    save(beside(alone), IMAGES / "implant-alone.png")
    given = result.completed & ~result.implant
    save(slices(given, result.implant, spacing, 360), IMAGES / "implant-slices.png")


if __name__ == "__main__":
    main()
