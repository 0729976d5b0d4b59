"""The quality report as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from famseg.messages import visible
from famseg.preparation._types import Quality
from famseg.preparation.batch import _page_slices
from famseg.preparation.batch._page_choice import SCRIPT, STYLE, box, choice
from famseg.preparation.batch._record import Record
from famseg.preparation.batch._thumbnails import PANELS

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c0392b; --look: #b9770e; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 64rem; }
body { padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
article { border: 1px solid var(--line); border-radius: 6px; margin: 0 0 1rem; }
article { padding: .8rem 1rem; }
img { background: #141414; border-radius: 4px; display: block; height: auto; max-width: 100%; }
dl { display: grid; gap: .1rem 1.5rem; margin: .6rem 0 0; }
dl { grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
dl div { display: flex; gap: .6rem; justify-content: space-between; }
dt { opacity: .7; } dd { margin: 0; text-align: right; white-space: nowrap; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; text-align: left; }
th, td { vertical-align: top; }
ul { margin: .5rem 0 0; padding-left: 1.2rem; }
.bad { color: var(--bad); } .look { color: var(--look); }
.origin { font-weight: normal; opacity: .7; }
pre { white-space: pre-wrap; }
"""
_STYLE += STYLE + _page_slices.STYLE
_LEGEND = (
    f"Each image shows, from left to right: {'; '.join(PANELS)}. R and L mark the patient's right "
    "and left: as in radiology, the patient's right is on the left of the image. A is front, P "
    "back, S top and I bottom. An implant is orange."
)
_SHOWN_ML = 0.05  # anything less is one or two voxels, and would be printed as 0.0


class _Shown(NamedTuple):
    """The additional content of the page for each subject."""

    images: Mapping[str, bytes | None]
    selectable: Collection[str]
    slices: Mapping[str, _page_slices.Images]


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_POLICY = (
    f"default-src 'none'; img-src data:; style-src {_hash(_STYLE)}; script-src {_hash(SCRIPT)}; "
    "base-uri 'none'; form-action 'none'"
)


def page(
    records: Sequence[Record],
    images: Mapping[str, bytes | None],
    *,
    settings: Mapping[str, object],
    layout: str,
    selectable: Collection[str] = (),
    slices: Mapping[str, _page_slices.Images] | None = None,
) -> str:
    """Return the report: failed subjects first, then those with findings, then the others.

    Args:
        records: All subjects.
        images: Their thumbnails as PNG files, by subject.
        settings: Settings of the preparation.
        layout: The layout of the source.
        selectable: Subjects that a reader can deselect, which are those in the manifest.
        slices: Slices by subject; for all others, the page says where their slices are.

    Returns:
        HTML with embedded style and images; every text is escaped.
    """
    done = [r for r in records if r.status == "done"]
    look = [r for r in done if needs_a_look(r)]
    rest = [r for r in done if not needs_a_look(r)]
    bad = [r for r in records if r.status in ("failed", "refused")]
    left_out = [r for r in records if r.status == "left out"]
    shown = _Shown(images, selectable, slices or {})
    title = f"Prepared skulls: {len(done)} of {len(done) + len(bad)}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        f"<p>{_escape(_summary(len(bad), len(look), layout))}</p>",
        *_reasons('<h2 class="bad">Not prepared</h2>', bad),
        *(choice() if selectable else ()),
        *_section("Worth a look", look, shown),
        *_section("Nothing unusual", rest, shown),
        *_reasons("<h2>Left out</h2>", left_out),
        "<h2>Settings</h2>",
        f"<pre>{_escape(json.dumps(settings, indent=2, ensure_ascii=False))}</pre>",
        f"<p>{_LEGEND}</p>",
        *([f"<p>{_page_slices.LEGEND}</p>"] if slices else ()),
        *([f"<script>{SCRIPT}</script>"] if selectable else ()),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def needs_a_look(record: Record) -> bool:
    """Return whether a prepared skull has an unusual property."""
    quality = record.quality
    if quality is None:
        return False
    return bool(quality.warnings) or quality.truncated_vault or quality.existing_defect


def _escape(text: str) -> str:
    """Return a text escaped for HTML, with invisible characters made visible."""
    return html.escape(visible(text, keep="\n"))


def _summary(failed: int, look: int, layout: str) -> str:
    def subjects(count: int) -> str:
        return f"{count} subject" if count == 1 else f"{count} subjects"

    return (
        f"{subjects(failed)} could not be prepared; {subjects(look)} of those that were prepared "
        f"should be checked. Layout of the source: {layout}."
    )


def _reasons(heading: str, records: Sequence[Record]) -> Iterator[str]:
    if not records:
        return
    yield heading
    yield "<table><tr><th>Subject</th><th>Found at</th><th>Reason</th></tr>"
    for record in records:
        cells = (record.subject, record.origin, record.reason)
        yield "<tr>" + "".join(f"<td>{_escape(text)}</td>" for text in cells) + "</tr>"
    yield "</table>"


def _section(
    title: str,
    records: Sequence[Record],
    shown: _Shown,
) -> Iterator[str]:
    if not records:
        return
    yield f"<h2>{_escape(title)}</h2>"
    for record in records:
        yield from _article(record, shown)


def _article(record: Record, shown: _Shown) -> Iterator[str]:
    name = _escape(record.subject)
    tick = box(record.subject) if record.subject in shown.selectable else ""
    image = shown.images.get(record.subject)
    yield f'<article>{tick}<h3>{name} <span class="origin">{_escape(record.origin)}</span></h3>'
    if image is not None:
        data = base64.b64encode(image).decode()
        yield f'<img alt="Slices and surface of {name}" src="data:image/png;base64,{data}">'
    quality = record.quality
    if quality is not None:
        yield from _slices(record, quality, shown)
        yield "<dl>"
        for term, value in _facts(quality):
            yield f"<div><dt>{_escape(term)}</dt><dd>{_escape(value)}</dd></div>"
        yield "</dl>"
        yield from _list(quality.warnings, "look")
    yield from _list(record.notes, "note")
    yield "</article>"


def _slices(record: Record, quality: Quality, shown: _Shown) -> Iterator[str]:
    own = shown.slices.get(record.subject)
    if own is not None:
        yield from _page_slices.slices(record.subject, own, quality.box_mm)
    elif len(shown.slices) >= _page_slices.MOST_SUBJECTS:
        yield (
            f"<p>This page has the slices of {_page_slices.MOST_SUBJECTS} subjects; those of this "
            "one are in the folder <code>slices</code>.</p>"
        )


def _list(sentences: Sequence[str], kind: str) -> Iterator[str]:
    if sentences:
        items = "".join(f'<li class="{kind}">{_escape(text)}</li>' for text in sentences)
        yield f"<ul>{items}</ul>"


def _facts(quality: Quality) -> Iterator[tuple[str, str]]:
    yield "bone", f"{quality.volume_ml:.0f} ml"
    yield "box (R, A, S)", f"{_times(quality.box_mm, '.0f')} mm"
    yield "pieces", str(quality.components)
    yield "vault cut off", "yes" if quality.truncated_vault else "no"
    yield "existing defect", "yes" if quality.existing_defect else "no"
    yield "flags", ", ".join(quality.flags) or "none"
    yield "largest defect of the vault", f"{quality.hole_cm2:.1f} cm²"
    yield "threshold", "none" if quality.threshold is None else f"{quality.threshold:g}"
    yield "spacing of the scan", f"{_times(quality.source_spacing_mm, '.3g')} mm"
    yield "spacing", f"{_times(quality.spacing_mm, '.3g')} mm"
    for why, ml in quality.removed_ml.items():
        if ml >= _SHOWN_ML:
            yield f"removed: {why}", f"{ml:.1f} ml"
    if quality.alignment_residual_mm is not None:
        yield "residual of the alignment", f"{quality.alignment_residual_mm:.2f} mm"
    if quality.asymmetry_mm is not None:
        yield "asymmetry (RMS)", f"{quality.asymmetry_mm:.2f} mm"
    if quality.turned_deg is not None:
        yield "turned by", f"{quality.turned_deg:.1f}°"


def _times(lengths: Sequence[float], form: str) -> str:
    return " x ".join(format(length, form) for length in lengths)
