"""Slices in the quality report that scroll and have an outline to switch on, without JavaScript."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping

from famseg.messages import visible
from famseg.preparation._types import View
from famseg.preparation.steps import COUNT, TILE, VIEWS

Images = Mapping[View, tuple[bytes, bytes]]
"""The scan and the outline of its bone by view, see `famseg.preparation.steps._slices.images`."""

MOST_SUBJECTS = 250
"""Number of subjects whose slices a page contains; browsers cope with a page of about 80 MB."""

LEGEND = (
    "Slices show the scan with the outline of the bone that was found in it, before it was "
    "resampled to the grid. Scroll in an image, or press Tab until it has a frame and use the "
    "arrow keys. Where the outline runs in soft tissue, the threshold is too low; where it leaves "
    "out bone, it is too high."
)

_TITLES: dict[View, tuple[str, str, int, str]] = {  # last: directions left, right, bottom, top
    "axial": ("axial, from below", "below the vertex", 2, "RLPA"),
    "coronal": ("coronal, from the front", "behind the front", 1, "RLIS"),
    "sagittal": ("sagittal, from the right", "from the right side", 0, "PAIS"),
}

# A slice is as high as its window, so that scrolling snaps to whole slices. Lengths are fixed,
# because the content security policy forbids inline styles and so a length for each image.
STYLE = """
.slices { margin: .6rem 0 0; } .slices summary { cursor: pointer; }
.slices > div { display: flex; flex-wrap: wrap; gap: .8rem; margin: .5rem 0 0; }
.slices figure { margin: 0; width: 18.5rem; } .slices figcaption { opacity: .7; }
.view { position: relative; }
.strip { background: #141414; border-radius: 4px; height: 17.5rem; overflow-x: hidden; }
.strip { overflow-y: scroll; scroll-snap-type: y mandatory; width: 18.5rem; }
.strip:focus-visible { outline: 3px solid Highlight; outline-offset: 1px; }
.strip > div { position: relative; width: 17.5rem; }
.strip img { border-radius: 0; height: auto; max-width: none; width: 17.5rem; }
.strip .bone { background: none; image-rendering: pixelated; left: 0; position: absolute; top: 0; }
.strip ol { inset: 0; list-style: none; margin: 0; padding: 0; position: absolute; }
.strip li { box-sizing: border-box; color: #ddd; font-size: .75rem; height: 17.5rem; }
.strip li { padding: .2rem .4rem; scroll-snap-align: start; scroll-snap-stop: always; }
.side { color: #ddd; font-size: .8rem; line-height: 1; pointer-events: none; }
.side { position: absolute; z-index: 1; }
.left { left: .4rem; top: 8.5rem; } .right { left: 16.5rem; top: 8.5rem; }
.bottom { left: 8.5rem; top: 16.4rem; } .top { left: 8.5rem; top: .4rem; }
.slices:has(.outlined:not(:checked)) .bone { visibility: hidden; }
"""


def slices(subject: str, images: Images, box_mm: tuple[float, float, float]) -> Iterator[str]:
    """Yield the slices of a subject, initially collapsed.

    Args:
        subject: Name of the subject; it is escaped here.
        images: Images of the subject.
        box_mm: Extent of the bounding box of its bone to the right, front and top; it tells where
            each slice lies.
    """
    name = html.escape(visible(subject))
    yield '<details class="slices"><summary>Slices of the scan</summary>'
    yield (
        '<label><input type="checkbox" class="outlined" checked autocomplete="off"> '
        "outline of the bone</label><div>"
    )
    for view in VIEWS:
        if view in images:
            yield from _figure(name, view, images[view], box_mm)
    yield "</div></details>"


def _figure(
    name: str, view: View, images: tuple[bytes, bytes], box_mm: tuple[float, float, float]
) -> Iterator[str]:
    title, where, axis, letters = _TITLES[view]
    yield f'<figure><figcaption>{title}; mm {where}</figcaption><div class="view">'
    for side, letter in zip(("left", "right", "bottom", "top"), letters, strict=True):
        yield f'<span class="side {side}">{letter}</span>'
    yield (
        f'<div class="strip" tabindex="0" role="group" '
        f'aria-label="{COUNT} slices of {name}, {title}: the arrow keys scroll"><div>'
    )
    size = f'width="{TILE}" height="{TILE * COUNT}"'
    scan, bone = (base64.b64encode(image).decode() for image in images)
    yield f'<img alt="The scan of {name}, {title}" {size} src="data:image/jpeg;base64,{scan}">'
    yield f'<img class="bone" alt="" {size} src="data:image/png;base64,{bone}">'
    yield "<ol>"
    for number in range(COUNT):
        mm = (number + 0.5) * box_mm[axis] / COUNT
        yield f"<li>{number + 1} of {COUNT}, {mm:.0f} mm</li>"
    yield "</ol></div></div></div></figure>"
