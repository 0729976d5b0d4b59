"""Self-contained HTML pages without requests, whose policy allows two scripts by hash."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Literal

import jinja2
from markupsafe import Markup

from famseg.reporting._scene import (
    Scene,
    scene_json,
    scene_views,
    viewer_packed,
    viewer_source,
)

Kind = Literal["png", "svg+xml"]


@dataclass(frozen=True)
class Image:
    """A figure of a page.

    Args:
        title: The text above it.
        content: The file.
        alt: A description for people who cannot see it.
        kind: Its format.
        caption: Definitions, units and n.
    """

    title: str
    content: bytes
    alt: str
    kind: Kind = "svg+xml"
    caption: str = ""

    @property
    def address(self) -> str:
        """The image as a data URL."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Link:
    """A table cell that links to another file.

    Args:
        text: The text that is displayed and used for sorting.
        address: The target: a path relative to the file of the page.
    """

    text: str
    address: str


Cell = str | float | int | Link | None


@dataclass(frozen=True)
class Sortable:
    """A table whose columns sort.

    Args:
        title: The text above it.
        columns: Headers with units.
        rows: Texts, numbers and links; numbers have the digits of their column, None is a dash.
        digits: Decimals of each column; None for four significant digits, for columns with mixed
            units.
        marked: Indices of the rows that failed.
        caption: Definitions.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: Sequence[int | None]
    marked: frozenset[int] = frozenset()
    caption: str = ""


@dataclass(frozen=True)
class Page:
    """The content of a page, in the order of the page.

    Args:
        title: Its heading.
        lead: The summary: a sentence or two.
        facts: Names and values at the top.
        alert: A sentence that must not be missed, at the very top.
        findings: The results in sentences, the most important first.
        warnings: Sentences about failures and things to check.
        scenes: Interactive views.
        images: Figures.
        tables: Tables.
        settings: Names and values in a part that is initially collapsed.
        texts: Headings and preformatted texts.
        foot: The origin: versions, date, hashes.
    """

    title: str
    lead: str
    facts: Mapping[str, str]
    alert: str = ""
    findings: Sequence[str] = ()
    warnings: Sequence[str] = ()
    scenes: Sequence[Scene] = ()
    images: Sequence[Image] = ()
    tables: Sequence[Sortable] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    foot: str = ""


def render(page: Page) -> str:
    """Return a page as HTML.

    It makes no requests: images, data and the viewer are embedded, and a strict policy forbids
    anything else. Everything is escaped. Each scene has its still image and its surfaces from three
    sides. They are shown in print, and if the viewer's file is not installed, with a line on how to
    get it.

    Args:
        page: The content.
    """
    source = viewer_source() if page.scenes else None
    script, viewer, style = (_file(name) for name in ("page.js", "viewer.js", "page.css"))
    scripts = [script, *([viewer, source] if source is not None else [])]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)}"
        "; img-src data: blob:; connect-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return _template().render(
        page=page,
        policy=policy,
        style=_safe(style),
        script=_safe(script),
        viewer=_safe(viewer) if source is not None else None,
        packed=_safe(viewer_packed()) if source is not None else "",
        scenes=[_shown(scene, with_data=source is not None) for scene in page.scenes],
    )


def _shown(scene: Scene, *, with_data: bool) -> tuple[Scene, Markup | None, str, str | None]:
    """Return a scene, its data, and the URLs of its two images."""
    views = scene_views(scene)
    return (
        scene,
        _safe(scene_json(scene)) if with_data else None,
        _png(scene.still),
        None if views is None else _png(views),
    )


def _png(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _safe(text: str) -> Markup:
    """Mark our own or sanitized text as safe HTML."""
    return Markup(text)  # noqa: S704


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _file(name: str) -> str:
    return (resources.files("famseg.reporting") / "page" / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_file("page.html"))
