"""Slices of the scan in the report, in a browser: correct orientation, outline on the bone."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium, listening
from PIL import Image
from report_made import DONE, SETTINGS, Page
from scipy import ndimage

from famseg.preparation import Prepared, Scan, Settings, prepare_scan
from famseg.preparation.batch._page import page
from famseg.preparation.batch._record import Folder
from famseg.preparation.batch._report import write_report
from famseg.preparation.steps._slices import COUNT, MOST_BYTES, TILE, VIEWS, _sampled, images
from famseg.volumes import Volume

MM = 4.0
SHAPE = (48, 56, 50)


def scan(kind: str = "hounsfield", *, lump: bool = True) -> Scan:
    """A shell of bone in a scalp, with a lump of 220 HU in the brain: right, front, top."""
    x, y, z = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * MM for n in SHAPE], indexing="ij")
    radius = np.sqrt((x / 70) ** 2 + (y / 85) ** 2 + (z / 75) ** 2)
    values = np.where(radius < 1.1, 40, -1000)
    values[(radius < 1) & (radius > 0.86)] = 800
    if lump:  # below the threshold: shown, not outlined
        values[(x - 25) ** 2 + (y - 30) ** 2 + (z - 20) ** 2 < 14**2] = 220
    if kind == "mask":
        values = (values > 226).astype(np.int16)
    return Scan(Volume(values.astype(np.int16), np.diag([MM, MM, MM, 1.0])), kind)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare_scan(scan(), Settings(size=None, spacing_mm=MM))


def middle(where: np.ndarray) -> tuple[float, float, float]:
    """Layer, row and column, from 0 to 1."""
    layer, row, column = (float(i.mean()) for i in np.nonzero(where))
    return (layer + 0.5) / COUNT, (row + 0.5) / TILE, (column + 0.5) / TILE


def test_slices_are_shown_the_right_way_round(prepared: Prepared) -> None:
    assert tuple(prepared.slices) == VIEWS
    without = prepare_scan(scan(lump=False), Settings(size=None, spacing_mm=MM)).slices
    places = {
        view: middle(shown.gray > without[view].gray) for view, shown in prepared.slices.items()
    }
    # The lump is on the right, at the front, near the top.
    for view, first, down, across in (
        ("axial", 0.37, "above", "left"),
        ("coronal", 0.33, "above", "left"),
        ("sagittal", 0.33, "above", "right"),
    ):
        layer, row, column = places[view]
        assert layer == pytest.approx(first, abs=0.04), view
        assert (row < 0.45) == (down == "above"), view
        assert column < 0.45 if across == "left" else column > 0.55, view


def test_the_outline_runs_along_the_bone_of_the_scan(prepared: Prepared) -> None:
    for view, shown in prepared.slices.items():
        gray = shown.gray[shown.outline].astype(float)
        assert 2_000 < shown.outline.sum() < 0.05 * shown.outline.size, view
        assert (gray > 78).mean() > 0.9, f"{view}: above the threshold"
        assert (gray < 250).mean() > 0.3, f"{view}: at the edge, not inside"


def test_a_mask_is_shown_in_gray() -> None:
    shown = prepare_scan(scan("mask"), Settings(size=None, spacing_mm=MM)).slices["axial"]
    assert set(np.unique(shown.gray[COUNT // 2])) >= {36, 182}


@pytest.mark.parametrize("noise", [0, 255])
def test_images_are_bounded_plain_and_reproducible(prepared: Prepared, noise: int) -> None:
    rng = np.random.default_rng(0)
    shown = prepared.slices["axial"]
    if noise:
        shown = shown._replace(gray=rng.integers(0, noise, shown.gray.shape, dtype=np.uint8))
    scan, outline = images(shown)
    assert images(shown) == (scan, outline)
    assert Image.open(io.BytesIO(scan)).size == (TILE, TILE * COUNT)
    back = np.asarray(Image.open(io.BytesIO(outline)).convert("RGBA"))[..., 3] > 0
    assert (back == shown.outline.reshape(-1, TILE)).all()
    if not noise:
        assert len(scan) <= MOST_BYTES
        assert len(outline) < 25_000
    assert b"Exif" not in scan
    assert b"tEXt" not in outline


def write(prepared: Prepared, folder: Folder, names: list[str]) -> None:
    for name in names:
        for view, shown in prepared.slices.items():
            for path, content in zip(folder.slices(name, view), images(shown), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    records = [replace(DONE, subject=name) for name in names]
    write_report(records, folder, settings=SETTINGS, layout="dicom", selectable=names)


def test_the_page_has_the_slices_in_it(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(prepared, Folder(tmp_path), ["a"])
    content = Page((tmp_path / "report.html").read_text())
    sources = [v or "" for tag, name, v in content.attributes if (tag, name) == ("img", "src")]
    assert len(sources) == 6
    assert all(s.startswith(("data:image/jpeg;base64,", "data:image/png;base64,")) for s in sources)
    assert not [name for _, name, _ in content.attributes if name == "style"], "the policy forbids"
    assert content.texts.count(f"{COUNT} of {COUNT}, 137 mm") == 1, "axial: 150 mm high"
    monkeypatch.setattr("famseg.preparation.batch._report.MOST_SUBJECTS", 1)
    monkeypatch.setattr("famseg.preparation.batch._page_slices.MOST_SUBJECTS", 1)
    write(prepared, Folder(tmp_path), ["a", "b"])
    text = (tmp_path / "report.html").read_text()
    assert text.count("<details") == 1
    assert "This page has the slices of 1 subjects; those of this one are in" in text


def test_without_slices_nothing_is_said_of_them() -> None:
    assert "<details" not in page([DONE], {}, settings=SETTINGS, layout="dicom")


@pytest.mark.slow
def test_slices_scroll_by_keyboard_without_scripts(prepared: Prepared, tmp_path: Path) -> None:
    write(prepared, Folder(tmp_path), ["a"])
    with chromium() as browser:
        context = browser.new_context(offline=True, java_script_enabled=False)
        opened = listening(context.new_page())
        opened.goto((tmp_path / "report.html").as_uri())
        opened.get_by_text("Slices of the scan").click()
        strip = opened.get_by_role("group", name="axial")
        strip.focus()
        before = strip.screenshot()
        places = []
        for _ in range(3):
            opened.keyboard.press("ArrowDown")
            opened.wait_for_timeout(400)
            box = opened.locator(".strip").first.locator("li").nth(len(places) + 1).bounding_box()
            places.append(box["y"] - strip.bounding_box()["y"])
        assert places == pytest.approx([0, 0, 0], abs=1), "one slice a key"
        assert strip.screenshot() != before
        bone = opened.locator("img.bone").first
        assert bone.is_visible()
        opened.get_by_label("outline of the bone").uncheck()
        assert not bone.is_visible()
        assert opened.said == []


@pytest.mark.parametrize(
    "steps", [[[0, 0, 0.3], [0, -0.2, 0], [-0.7, 0, 0]], [[0, 1.2, 0], [2.0, 0, 0], [0, 0, 1.4]]]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_slices_along_the_axes_are_those_of_any_direction(
    steps: list[list[float]], order: str
) -> None:
    values = np.asarray(np.random.default_rng(0).normal(size=(30, 40, 20)), order=order)
    to_index = np.eye(4)
    to_index[:3, :3] = steps
    to_index[:3, 3] = [-1.01, 30.02, 12.03]  # partly outside
    plain = ndimage.affine_transform(
        values,
        to_index[:3, :3],
        offset=to_index[:3, 3],
        output_shape=(COUNT, TILE, TILE),
        output=np.float32,
        order=1 if steps[0][2] else 0,  # pixels finer than voxels, or coarser
        mode="constant",
        cval=-7.0,
        prefilter=False,
    )
    assert 100 < (plain != -7).sum() < 0.99 * plain.size
    np.testing.assert_allclose(_sampled(values, to_index, -7.0), plain, atol=1e-5)
