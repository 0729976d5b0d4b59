"""Takes the images of docs/reconstruct.md: a phantom with a defect, the defect in it, its implant.

    python docs/_site/take_implant_images.py

Takes a minute of one core. They are drawn as the pages of `famseg report` draw them: bone is light,
the implant blue, and the patient's right is on the left.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from famseg.datasets import RegionDefect, inject, phantom
from famseg.preparation import Scan
from famseg.reconstruction import Options, load_network, reconstruct
from famseg.reporting import BONE, IMPLANT, Shown, shaded_views, side_of, slices, three_sides
from famseg.volumes import Volume

IMAGES = Path(__file__).parents[1] / "images"
SIZE, SPACING_MM = 128, 1.75
UNSEEN = 1000  # a subject that the built-in network was not trained on


def main() -> None:
    """Write the images."""
    spacing = (SPACING_MM,) * 3
    skull = phantom(UNSEEN, 0, SIZE, SPACING_MM)
    generator = np.random.default_rng(0)
    defective, _ = inject(skull, RegionDefect("parietotemporal"), spacing, generator)
    scan = Scan(Volume(defective, np.diag([*spacing, 1.0])), "mask")
    result = reconstruct(scan, load_network("builtin"), Options())
    bone = (result.skull_mesh, np.array(BONE, dtype=np.uint8))
    implant = (result.implant_mesh, np.array(IMPLANT, dtype=np.uint8))
    sides = three_sides(side_of(result.implant_mesh, result.skull_mesh)[0])
    shown = Shown(
        bone=result.completed & ~result.implant,
        implant=result.implant,
        agreement=result.agreement,
        affine=result.affine,
        steps=(1, 1, 1),
        implant_mesh=result.implant_mesh,
        implant_faces=None,
    )
    images = {
        "implant-defect.png": shaded_views([bone], sides),
        "implant-placed.png": shaded_views([bone, implant], sides),
        "implant-alone.png": shaded_views([implant], sides),
        "implant-slices.png": slices(shown),
    }
    for name, content in images.items():
        (IMAGES / name).write_bytes(content)


if __name__ == "__main__":
    main()
