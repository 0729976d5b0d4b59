"""What cleaning takes from a threshold with its largest component, head by head.

python benchmarks/cleaning.py /data/skulls --out benchmarks/results/cleaning.md

Every source below the folder is read as `famseg prepare` reads it. Compared in the voxels of the
scan: all that lies above 226 HU (of masks all that is set), its largest 26-connected component, and
the skull that `famseg.preparation` leaves of it with the default settings, before the final cut at
150 mm below the vertex. With --images there is an image for each of the heads that differ most.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _measure import environment, say, table
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from famseg.messages import InputError
from famseg.preparation import Settings, Source, find_sources
from famseg.preparation.steps import clean_bone, find_bone, to_ras

Mask = NDArray[np.bool_]

_FULL = np.ones((3, 3, 3), dtype=bool)
_IMAGES = 6
_BACKGROUND, _BOTH, _REMOVED, _ADDED = (20, 20, 20), (200, 200, 200), (230, 60, 40), (60, 160, 230)


class Compared(NamedTuple):
    """One head: volumes in ml, the vertex in mm."""

    name: str
    above: float
    largest: float
    skull: float
    gone: float
    added: float
    lower: float
    why: str
    image: Image.Image | None


def compared(source: Source, settings: Settings, *, draw: bool) -> Compared:
    """Read a source and clean it in both ways."""
    scan = source.read()
    ras = to_ras(scan.volume)
    bone = find_bone(ras.array, scan.kind, ras.spacing_mm, settings, scan.segments)
    above = bone.mask.copy()
    labels, _ = ndimage.label(above, structure=_FULL)
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    hounsfield = scan.kind == "hounsfield"
    skull = clean_bone(bone, ras.array, ras.spacing_mm, settings, hounsfield=hounsfield)
    ml = float(np.prod(ras.spacing_mm)) / 1000
    tops = [int(np.flatnonzero(m.any(axis=(0, 1)))[-1]) for m in (largest, skull.mask)]
    why = ", ".join(f"{key} {value:.1f}" for key, value in skull.removed_ml.items() if value > 0.05)
    return Compared(
        source.origin,
        np.count_nonzero(above) * ml,
        np.count_nonzero(largest) * ml,
        np.count_nonzero(skull.mask) * ml,
        np.count_nonzero(largest & ~skull.mask) * ml,
        np.count_nonzero(skull.mask & ~largest) * ml,
        (tops[0] - tops[1]) * ras.spacing_mm[2],
        why or "nothing",
        image_of(largest, skull.mask, ras.spacing_mm) if draw else None,
    )


def image_of(largest: Mask, skull: Mask, spacing_mm: tuple[float, float, float]) -> Image.Image:
    """Return the sagittal and axial slices with most removed voxels: red is removed, blue added."""
    gone = largest & ~skull
    panels = []
    for axis in (0, 2):
        across = tuple(a for a in range(3) if a != axis)
        at = int(np.argmax(gone.sum(axis=across)))
        one, other = (np.take(m, at, axis) for m in (largest, skull))
        rgb = np.full((*one.shape, 3), _BACKGROUND, dtype=np.uint8)
        for mask, color in ((one & other, _BOTH), (one & ~other, _REMOVED), (other & ~one, _ADDED)):
            rgb[mask] = color
        steps = [spacing_mm[a] for a in across]
        image = Image.fromarray(np.ascontiguousarray(rgb.swapaxes(0, 1)[::-1]))
        if axis == 2:  # the patient's right on the left
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        size = [max(1, round(2 * n * s)) for n, s in zip(one.shape, steps, strict=True)]
        panels.append(image.resize((size[0], size[1]), Image.Resampling.NEAREST))
    sheet = Image.new("RGB", (sum(p.width for p in panels) + 8, max(p.height for p in panels)))
    sheet.paste(panels[0], (0, 0))
    sheet.paste(panels[1], (panels[0].width + 8, 0))
    return sheet


def rows(found: list[Compared]) -> list[list[str]]:
    """Return the table's rows, sorted by lost volume."""
    return [
        [
            each.name,
            *(f"{ml:.0f}" for ml in (each.above, each.largest, each.skull)),
            f"{each.gone:.1f}",
            f"{each.added:.1f}",
            f"{each.lower:.1f}",
            each.why,
        ]
        for each in sorted(found, key=lambda f: -f.gone)
    ]


def main() -> None:
    """Compare, print the table, and write it if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="Markdown file")
    parser.add_argument("--images", type=Path, help="folder for images of those that differ most")
    options = parser.parse_args()
    settings = Settings()
    found: list[Compared] = []
    failed: list[str] = []
    for folder in options.folders:
        for source in find_sources(folder).sources:
            try:
                found.append(compared(source, settings, draw=options.images is not None))
            except InputError as error:
                failed.append(f"- {source.origin}: {'; '.join(error.faults)}")
            say(f"{len(found)} compared, {len(failed)} failed: {source.origin}")
    head = ["scan", "above the threshold, ml", "largest component, ml", "skull, ml"]
    head += ["removed of it, ml", "added to it, ml", "vertex lower by, mm"]
    head += ["removed, ml, by reason"]
    lines = [f"- {key}: {value}" for key, value in environment("cpu", 1, ["SimpleITK"]).items()]
    text = "\n".join(
        ["# What cleaning removes", "", *lines, "", table(head, rows(found)), "", *failed, ""]
    )
    say(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    if options.images is not None:
        options.images.mkdir(parents=True, exist_ok=True)
        for number, each in enumerate(sorted(found, key=lambda f: -f.gone)[:_IMAGES]):
            if each.image is not None:
                each.image.save(options.images / f"{number}.png")


if __name__ == "__main__":
    main()
