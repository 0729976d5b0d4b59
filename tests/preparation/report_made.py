"""A record of a prepared subject, and a reader of the report's page."""

from __future__ import annotations

from html.parser import HTMLParser

from famseg.preparation import Quality, Record
from famseg.preparation._types import Finding

QUALITY = Quality(
    volume_ml=612.345,
    box_mm=(140.25, 180.0, 150.0),
    components=2,
    removed_ml={"table and holder": 1.25, "neck": 30.0},
    truncated_vault=False,
    existing_defect=True,
    threshold=226.0,
    source_spacing_mm=(0.5, 0.5, 1.25),
    spacing_mm=(1.75, 1.75, 1.75),
    alignment_residual_mm=2.5,
    warnings=("The vault has a hole.", "The bone is thin."),
    hole_cm2=5.25,
    findings=(
        Finding("metal", "look", "The bone is thin."),
        Finding("existing_defect", "look", "The vault has a hole."),
        Finding("table", "note", "A table."),
    ),
    asymmetry_mm=1.25,
    turned_deg=7.5,
)
DONE = Record(
    "head_1",
    "heads/1.nii.gz",
    "done",
    quality=QUALITY,
    notes=("The slices were sorted.",),
    to_source=(1.0, 0.0, 0.5),
    files={"skulls/head_1.nii.gz": "ab", "implant/bilateral/head_1.nii.gz": "cd"},
)
SETTINGS = {"size": 128, "spacing_mm": 1.75}


class Page(HTMLParser):
    """The tags, texts and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.texts.append(data.strip())
