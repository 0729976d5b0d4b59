"""The diagram of docs/architecture.md: how the data of one run flow, as SVG.

    python docs/_site/data_flow.py

The drawing brings its own light ground, so that it can be read on light and on dark pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

PATH = Path(__file__).parents[1] / "images" / "data-flow.svg"
WIDTH, HEIGHT = 980, 700
LINE = 19  # pixels from one line of text to the next
INK, GROUND, BORDER = "#1f2328", "#fbfbf9", "#b8b8b2"
FILLS = {"file": "#ffffff", "package": "#e1edf6", "engine": "#e2f2ec", "part": "#ffffff"}
STROKES = {"file": "#6b6b66", "package": "#0072b2", "engine": "#009e73", "part": "#009e73"}


@dataclass(frozen=True)
class Box:
    """A box with lines of text, the first one bold; positions in pixels from the upper left."""

    kind: Literal["file", "package", "engine", "part"]
    x: int
    y: int
    width: int
    height: int
    lines: tuple[str, ...]

    def draw(self) -> str:
        """Return the box as SVG."""
        dash = ' stroke-dasharray="5 3"' if self.kind == "file" else ""
        top = self.y + 23 if self.kind == "engine" else self._first_line()
        middle = self.x + self.width // 2
        texts = (
            f'<text x="{middle}" y="{top + n * LINE}" text-anchor="middle"'
            f' font-weight="{400 if n else 600}">{escape(line)}</text>'
            for n, line in enumerate(self.lines)
        )
        return "\n".join(
            [
                f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}"'
                f' rx="8" fill="{FILLS[self.kind]}" stroke="{STROKES[self.kind]}"{dash}/>',
                *texts,
            ]
        )

    def _first_line(self) -> int:
        return self.y + (self.height - LINE * (len(self.lines) - 1)) // 2 + 5


BOXES = (
    Box("file", 20, 20, 200, 76, ("skull.yaml", "key=value on the", "command line")),
    Box("package", 260, 20, 210, 76, ("famseg.config", "checks every key,", "lists every error")),
    Box(
        "package", 730, 20, 230, 76, ("pipelines/skull.py", "build(config, device)", "→ Experiment")
    ),
    Box(
        "file", 20, 136, 200, 76, ("CT, masks, meshes", "DICOM, NIfTI, NRRD,", "STL, PLY, archives")
    ),
    Box(
        "package",
        260,
        136,
        210,
        76,
        ("famseg.preparation", "bone, cleaning, alignment", "→ skulls/, manifest.csv"),
    ),
    Box(
        "package",
        510,
        136,
        200,
        76,
        ("famseg.datasets", "phantoms or skulls; a new", "defect in every epoch"),
    ),
    Box("engine", 20, 262, 940, 142, ("famseg.engine: the training step, in MONAI's trainer",)),
    Box(
        "part", 40, 302, 190, 84, ("famseg.models", "network: defective", "skull → complete skull")
    ),
    Box("part", 270, 302, 190, 84, ("famseg.objectives", "total = loss", "+ lambda · penalty")),
    Box(
        "part",
        495,
        302,
        210,
        84,
        ("famseg.flatness", "FAM: kappa of one layer,", "in the same forward pass"),
    ),
    Box("part", 740, 302, 200, 84, ("optimizer", "one backward pass,", "one step")),
    Box(
        "file",
        20,
        454,
        940,
        76,
        (
            "run folder (famseg.runs)",
            "config.yaml · manifest.csv · provenance.json · status.json · metrics.jsonl",
            "checkpoints/best.pt, last.pt · evaluation/ · report.html · tracking.json",
        ),
    ),
    Box(
        "package",
        20,
        580,
        180,
        96,
        ("famseg.evaluation", "each test case", "→ cases.csv,", "summary.json"),
    ),
    Box("package", 210, 580, 180, 96, ("famseg.tracking", "curves and results", "→ MLflow")),
    Box("package", 400, 580, 180, 96, ("famseg.reporting", "report.html, tables,", "comparisons")),
    Box(
        "package",
        590,
        580,
        180,
        96,
        ("famseg.reconstruction", "patient's skull", "→ implant, meshes"),
    ),
    Box("package", 780, 580, 180, 96, ("famseg.export", "MONAI bundle, ONNX,", "TorchScript")),
)
# Corners of each arrow; those of the last row lead both ways where the run folder gets files back.
ARROWS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((220, 58), (260, 58)),
    ((470, 58), (730, 58)),
    ((220, 174), (260, 174)),
    ((470, 174), (510, 174)),
    ((610, 212), (610, 262)),
    ((845, 96), (845, 262)),
    ((230, 344), (270, 344)),
    ((495, 344), (460, 344)),
    ((365, 386), (365, 395), (840, 395), (840, 386)),
    ((490, 404), (490, 454)),
    *(((x, 530), (x, 580)) for x in (300, 680, 870)),
)
BOTH_WAYS = (((110, 530), (110, 580)), ((490, 530), (490, 580)))


def _arrow(points: tuple[tuple[int, int], ...], *, both: bool = False) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    start = ' marker-start="url(#tip)"' if both else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.5"'
        f'{start} marker-end="url(#tip)"/>'
    )


def data_flow() -> str:
    """Return the drawing as SVG."""
    title = "Data flow of a run: configuration and skulls, training step, run folder, results"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
            f' font-family="system-ui, sans-serif" font-size="14" fill="{INK}">',
            f"<title>{title}</title>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8"'
            ' markerHeight="8" orient="auto-start-reverse"><path d="M0 0 10 5 0 10z"/>'
            "</marker></defs>",
            f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="12"'
            f' fill="{GROUND}" stroke="{BORDER}"/>',
            *(box.draw() for box in BOXES),
            *(_arrow(points) for points in ARROWS),
            *(_arrow(points, both=True) for points in BOTH_WAYS),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PATH.write_text(data_flow(), encoding="utf-8")
