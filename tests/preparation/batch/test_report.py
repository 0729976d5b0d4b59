from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from PIL import Image
from report_made import DONE, QUALITY, SETTINGS, Page

from famseg.datasets import phantom, read_subject_list
from famseg.preparation import Record
from famseg.preparation.batch._page import needs_a_look, page
from famseg.preparation.batch._record import Folder, read_record, write_record
from famseg.preparation.batch._report import COLUMNS, companions, report_row, table, write_report
from famseg.preparation.batch._thumbnails import thumbnail
from famseg.volumes import Volume

FAILED = Record("head_2", "heads/2", "failed", "a gap of 12 mm: scan it again")
EVIL = "<script>alert('x')</script>\"&"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def shown(*records: Record, images: dict[str, bytes] | None = None) -> Page:
    return Page(page(records, images or {}, settings=SETTINGS, layout="dicom"))


def test_the_table_has_a_row_a_subject_with_units_in_the_names() -> None:
    first, second = rows(table([DONE, FAILED]))
    assert first == {
        "subject": "head_1",
        "status": "done",
        "reason": "",
        "origin": "heads/1.nii.gz",
        "volume_ml": "612.35",
        "box_right_mm": "140.2",
        "box_front_mm": "180",
        "box_top_mm": "150",
        "components": "2",
        "truncated_vault": "no",
        "existing_defect": "yes",
        "flags": "existing_defect metal",
        "hole_cm2": "5.25",
        "threshold": "226",
        "source_spacing_mm": "0.5 x 0.5 x 1.25",
        "spacing_mm": "1.75 x 1.75 x 1.75",
        "removed_ml": "31.25",
        "removed": "table and holder: 1.25 | neck: 30.00",
        "alignment_residual_mm": "2.5",
        "asymmetry_mm": "1.25",
        "turned_deg": "7.5",
        "companions": "implant/bilateral",
        "warnings": "The vault has a hole. | The bone is thin.",
        "notes": "The slices were sorted.",
    }
    assert {name for name, value in second.items() if value} == {
        "subject",
        "status",
        "origin",
        "reason",
    }
    assert tuple(first) == COLUMNS == tuple(report_row(FAILED))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum(a1)", "\t=1"])
def test_no_cell_is_a_formula_to_a_spreadsheet(text: str) -> None:
    (only,) = rows(table([replace(FAILED, reason=text, origin=text)]))
    assert (only["reason"], only["origin"]) == (f"'{text}", f"'{text}")


def test_cells_with_commas_quotes_and_lines_come_back() -> None:
    text = 'a "b", c\nd'
    (only,) = rows(table([replace(FAILED, reason=text)]))
    assert only["reason"] == text


def test_a_page_names_what_failed_first_then_what_to_look_at_then_the_rest() -> None:
    fine = replace(DONE, subject="fine", quality=replace(QUALITY, existing_defect=False))
    fine = replace(fine, quality=replace(fine.quality, warnings=()))
    text = page([fine, DONE, FAILED], {}, settings=SETTINGS, layout="dicom")
    places = [text.index(part) for part in ("Not prepared", "Worth a look", "Nothing unusual")]
    assert places == sorted(places)
    assert text.index("head_2") < text.index("head_1") < text.index("<h3>fine")
    assert "Prepared skulls: 2 of 3" in text
    assert (
        "1 subject could not be prepared; 1 subject of those that were prepared should be checked. "
        "Layout of the source: dicom."
    ) in text
    assert [needs_a_look(r) for r in (fine, DONE, FAILED)] == [False, True, False]


def test_facts_are_shown_with_units() -> None:
    texts = shown(DONE).texts
    for fact in (
        "612 ml",
        "140 x 180 x 150 mm",
        "226",
        "1.2 ml",
        "30.0 ml",
        "2.50 mm",
        "1.25 mm",
        "7.5°",
        "yes",
        "5.2 cm²",
        "existing_defect, metal",
    ):
        assert fact in texts, fact
    assert "The bone is thin." in texts
    assert "The slices were sorted." in texts


def test_every_text_is_escaped_and_nothing_runs() -> None:
    quality = replace(QUALITY, warnings=(EVIL,), removed_ml={EVIL: 1.0})
    evil = replace(DONE, subject=EVIL, origin=EVIL, quality=quality, notes=(EVIL,))
    bad = replace(FAILED, subject=EVIL, origin=EVIL, reason=EVIL)
    records, images = [evil, bad], {EVIL: b"png"}
    text = page(records, images, settings={"crop": EVIL}, layout=EVIL, selectable=[EVIL])
    content = Page(text)
    assert content.tags.count("script") == 1, "our own"
    assert ("input", "data-subject", EVIL) in content.attributes
    assert not [name for _, name, _ in content.attributes if name.startswith("on")]
    assert sum(EVIL in part for part in content.texts) >= 7, "shown as it is"
    assert ("img", "alt", f"Slices and surface of {EVIL}") in content.attributes


def test_only_who_is_in_the_manifest_can_be_deselected() -> None:
    others = replace(DONE, subject="chest"), FAILED
    text = page([DONE, *others], {}, settings=SETTINGS, layout="dicom", selectable=["head_1"])
    boxes = [value for _, name, value in Page(text).attributes if name == "data-subject"]
    assert boxes == ["head_1"]
    assert not {"input", "button", "script"} & set(shown(DONE).tags)


@pytest.mark.slow
def test_the_list_of_deselected_subjects_is_what_split_reads(tmp_path: Path) -> None:
    names = ["a", 'b "c" <d>', "e"]
    records = [replace(DONE, subject=name) for name in names]
    text = page(records, {}, settings=SETTINGS, layout="dicom", selectable=names)
    (tmp_path / "report.html").write_text(text)
    said: list[str] = []
    with chromium() as browser:
        opened = browser.new_context(offline=True).new_page()
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.goto((tmp_path / "report.html").as_uri())
        button = opened.get_by_role("button", name="Download the list")
        assert button.is_disabled()
        assert "0 of 3 deselected" in opened.locator("body").inner_text()
        for number in (1, 2):
            opened.get_by_label("use").nth(number).uncheck()
        assert "2 of 3 deselected" in opened.locator("body").inner_text()
        with opened.expect_download() as waited:
            button.click()
        waited.value.save_as(tmp_path / waited.value.suggested_filename)
        browser.close()
    assert said == []
    assert read_subject_list(tmp_path / "exclude.txt", names) == tuple(names[1:])


def test_a_page_needs_nothing_from_elsewhere() -> None:
    content = shown(DONE, images={"head_1": b"\x89PNG"})
    policies = [
        value
        for tag, name, value in content.attributes
        if tag == "meta" and name == "content" and value and "default-src" in value
    ]
    assert len(policies) == 1
    policy = dict(each.split(maxsplit=1) for each in (policies[0] or "").split("; "))
    digest = policy.pop("style-src")
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", digest), "a browser shows whether it is right"
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", policy.pop("script-src"))
    assert policy == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    sources = [value for _, name, value in content.attributes if name in ("src", "href")]
    assert sources == ["data:image/png;base64,iVBORw=="]
    assert not {"link", "iframe", "object", "form", "a"} & set(content.tags)


def test_the_files_are_written_with_the_images_in_them(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.thumbnail("head_1").parent.mkdir()
    folder.thumbnail("head_1").write_bytes(b"\x89PNG")
    write_report([DONE, FAILED], folder, settings=SETTINGS, layout="folder")
    assert "data:image/png;base64,iVBORw==" in (tmp_path / "report.html").read_text()
    assert len(rows((tmp_path / "report.csv").read_text())) == 2
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html",
        "report.csv",
        "thumbnails",
    }


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    write_record(DONE, folder)
    assert read_record("head_1", folder) == DONE
    assert read_record("head_2", folder) is None


@pytest.mark.parametrize(
    "change",
    [
        ('"components": 2', '"parts": 2'),
        ('"status": "done"', '"state": "done"'),
        ("{", ""),
        ('"notes": [', '"notes": 1, "x": ['),
    ],
)
def test_a_record_of_another_version_counts_as_none(tmp_path: Path, change) -> None:
    folder = Folder(tmp_path)
    write_record(DONE, folder)
    path = folder.record("head_1")
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    assert read_record("head_1", folder) is None


def test_companions_are_named_by_role_and_class() -> None:
    assert companions(DONE) == ["implant/bilateral"]
    plain = replace(DONE, files={"defective/a.nii.gz": "", "skulls/a.nii.gz": ""})
    assert companions(plain) == ["defective"]


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def panel(content: bytes, index: int) -> np.ndarray:
    """A panel without the letters at its edges."""
    return pixels(content)[30:162, 168 * index + 12 : 168 * (index + 1) - 12]


def block(*slices: slice) -> Volume:
    mask = np.zeros((40, 40, 40), dtype=np.uint8)
    mask[2:38, 2:38, 2:38] = 1
    mask[4:36, 4:36, 4:36] = 0
    mask[slices] = 1
    return Volume(mask, np.diag([4.0, 4.0, 4.0, 1.0]))


BRIGHT = 150


@pytest.mark.parametrize(
    ("index", "slices", "edge"),
    [
        (0, (slice(30, 38), slice(None), slice(None)), "left"),  # R is at the left
        (1, (slice(30, 38), slice(None), slice(None)), "left"),  # R is at the left here, too
        (0, (slice(None), slice(30, 38), slice(None)), "top"),  # A is on top
        (1, (slice(None), slice(None), slice(30, 38)), "top"),  # S is on top
        (2, (slice(None), slice(30, 38), slice(None)), "right"),  # A is at the right
    ],
)
def test_slices_are_shown_the_right_way_round(index: int, slices, edge: str) -> None:
    inner = tuple(slice(s.start or 2, s.stop or 38) for s in slices)
    bone = panel(thumbnail(block(*inner)), index).min(axis=2) > BRIGHT
    halves = {
        "left": bone[:, : bone.shape[1] // 2],
        "right": bone[:, bone.shape[1] // 2 :],
        "top": bone[: bone.shape[0] // 2],
        "bottom": bone[bone.shape[0] // 2 :],
    }
    assert max(halves, key=lambda name: halves[name].sum()) == edge


@pytest.mark.parametrize(
    ("index", "hole", "half"),
    [
        (3, (slice(30, 40), slice(22, 34), slice(6, 34)), "right"),  # right wall, at the front
        (4, (slice(22, 34), slice(30, 40), slice(6, 34)), "left"),  # front wall, at the right
    ],
)
def test_the_surface_is_seen_from_the_right_and_from_the_front(index, hole, half) -> None:
    volume = block()
    volume.array[hole] = 0
    light = panel(thumbnail(volume), index).mean(axis=2)
    middle = light.shape[1] // 2
    darker = "left" if light[:, :middle].mean() < light[:, middle:].mean() else "right"
    assert darker == half


def test_all_views_agree_about_left_and_right() -> None:
    """A head with an implant on the right: it is on the left of each view that shows both sides."""
    head = block()
    implant = np.zeros_like(head.array)
    implant[28:37, 36:40, 12:28] = 1  # at the front, on the right
    skull = Volume(head.array & ~implant, head.affine)
    content = thumbnail(skull, Volume(implant, head.affine))
    letters = pixels(content)
    for index in (0, 1, 4):  # axial, coronal, the surface from the front
        shown = panel(content, index)
        if index != 1:  # the coronal slice runs behind the implant
            orange = shown[..., 0] > shown[..., 2] + 60
            columns = np.nonzero(orange.any(axis=0))[0]
            assert columns.max() < shown.shape[1] / 2, index
        left = letters[85:105, 168 * index + 1 : 168 * index + 12]
        right = letters[85:105, 168 * (index + 1) - 12 : 168 * (index + 1)]
        # An R has a closed bow: more of it is bright than of an L.
        assert (left > BRIGHT).sum() > (right > BRIGHT).sum() > 0, index


def test_the_page_says_which_side_is_which() -> None:
    text = page([DONE], {}, settings=SETTINGS, layout="dicom")
    assert "the patient's right is on the left of the image" in text


def test_an_implant_is_orange() -> None:
    whole = block()
    implant = np.zeros_like(whole.array)
    implant[30:40, 10:30, 10:30] = whole.array[30:40, 10:30, 10:30]
    rest = Volume(whole.array - implant, whole.affine)
    content = thumbnail(rest, Volume(implant, whole.affine))

    def orange(index: int) -> int:
        shown = panel(content, index)
        return int((shown[..., 0] > shown[..., 2] + 60).sum())

    assert orange(0) > 50
    assert orange(3) > 500, "seen from the right"
    assert orange(4) < 20, "hidden from the front"


def test_thumbnails_are_small_plain_and_reproducible() -> None:
    volume = Volume(phantom(0, 0, 32), np.diag([7.0, 7.0, 7.0, 1.0]))
    content = thumbnail(volume)
    assert content == thumbnail(volume)
    assert len(content) < 60_000
    image = Image.open(io.BytesIO(content))
    assert image.size == (840, 180)
    assert not re.findall(rb"tEXt|iTXt|eXIf|tIME", content)


def test_an_empty_skull_has_a_image() -> None:
    empty = Volume(np.zeros((8, 8, 8), dtype=np.uint8), np.eye(4))
    assert pixels(thumbnail(empty)).shape == (180, 840, 3)


def test_an_implant_on_another_grid_is_refused() -> None:
    other = Volume(np.zeros((8, 8, 8), dtype=np.uint8), np.eye(4))
    with pytest.raises(ValueError, match=r"the implant has the grid \(8, 8, 8\), the skull \(40,"):
        thumbnail(block(), other)
