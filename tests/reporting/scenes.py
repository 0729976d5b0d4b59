"""A small case that pages show: half a ball with a lid, and names that want to be code."""

from __future__ import annotations

import numpy as np

from famseg.evaluation import SlicesCase, slices_image
from famseg.meshes import surface_mesh
from famseg.reporting import Image, Layer, Page, Part, Scene, Sortable
from famseg.volumes import Volume

EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def scene(title: str = EVIL) -> Scene:
    """A ball whose upper right part is the implant."""
    distance = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)
    ball = (distance < 10) & (distance > 7)
    implant = ball.copy()
    implant[:12] = implant[:, :, :12] = False
    skull = ball & ~implant
    still = slices_image([SlicesCase("case", skull, ball, ball, implant, (2.0, 2.0, 2.0))])
    return Scene(
        title=title,
        name="case",
        parts=[
            Part("skull", "Skull", (222, 212, 192), surface_mesh(skull, AFFINE)),
            Part("implant", "Implant", (0, 114, 178), surface_mesh(implant, AFFINE)),
        ],
        layers=[
            Layer(
                "masks",
                "Masks in the slices",
                Volume((skull + 2 * implant).astype(np.uint8), AFFINE),
                {1: ("bone", (222, 212, 192)), 2: ("implant", (0, 114, 178))},
            )
        ],
        still=still,
        alt="A ball with a lid",
        side=(225.0, 30.0),
    )


def page() -> Page:
    """A page with everything in it."""
    return Page(
        title=f"Report {EVIL}",
        lead="Three cases were scored.",
        facts={"DSC": "0.567 ± 0.404 (n = 3, failed 1)"},
        warnings=[f"Case 3 failed. {EVIL}"],
        scenes=[scene()],
        images=[Image("Slices", scene().still, "slices", "png", "A caption")],
        tables=[
            Sortable(
                "Cases",
                ["case", "DSC", "HD95 mm"],
                [["a10", 0.8, 2.0], ["a9", 0.9, None], [EVIL, 0.0, 120.0]],
                [0, 3, 1],
                frozenset({2}),
                "Worst first",
            )
        ],
        settings={"lambda": "0.1"},
        texts={"Verdict": "no difference shown <b>"},
        foot="famseg",
    )
