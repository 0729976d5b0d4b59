from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from made_cases import make_case, make_output
from PIL import Image

from famseg.messages import InputError
from famseg.reporting import _html, render
from famseg.reporting._html import Link
from famseg.reporting._reconstruction_page import (
    case_page,
    cases_page,
    direction_words,
    is_reconstruction,
    write_reconstruction_pages,
)
from famseg.reporting._reconstruction_view import CONFIDENCE, coarser, read_shown, scene_of

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Three cases, one of them with a low confidence, and an input that failed."""
    folder = tmp_path_factory.mktemp("out")
    make_output(folder, {"noise": f"no skull {EVIL}"})
    make_case(folder, "a1", 0.9)
    make_case(folder, "b2", 0.41, warnings=("LOW CONFIDENCE (0.41): do not.", f"Look {EVIL}"))
    make_case(folder, "c3", 0.7, warnings=("3 cm2 of the vault stay open.",))
    return folder


@pytest.fixture
def without_viewer(monkeypatch):
    monkeypatch.setattr(_html, "viewer_source", lambda: None)


def test_a_case_is_measured_and_its_low_confidence_comes_first(out):
    page, views = case_page(out / "b2")
    assert page.alert.startswith("Low confidence: low (0.41)")
    assert page.warnings == [f"Look {EVIL}"], "the low confidence is said once"
    assert page.facts["volume"] == "12.7 ml"
    assert page.facts["undercut"] == "9.5 mm³"
    assert page.facts["insertion direction"] == "L 0.60, P 0.60, I 0.50"
    assert "an opening of 33 cm² (front right)" in page.lead
    rows = {row[0]: row[1:3] for row in page.tables[0].rows}
    assert rows["thickness, 5th percentile"] == ["2.1", "mm"]
    assert rows["box"] == ["60 \N{MULTIPLICATION SIGN} 61 \N{MULTIPLICATION SIGN} 62", "mm"]
    assert page.settings["options.gap_mm (last call)"] == "0.5"
    assert views is not None
    assert case_page(out / "a1")[0].alert == ""


def test_all_cases_are_listed_worst_first_and_failures_are_shown(out):
    page = cases_page(out, [out / "a1", out / "b2", out / "c3"], out)
    (table,) = page.tables
    names = [row[0] for row in table.rows]
    assert names == [Link(name, f"{name}/report.html") for name in ("b2", "c3", "a1")]
    assert table.marked == {0}
    assert [row[1] for row in table.rows] == [0.41, 0.7, 0.9]
    assert page.warnings[0] == f"noise failed: no skull {EVIL}"
    assert page.alert == "Low confidence: b2. Do not rely on these."
    assert "Low confidence: 1. Others with warnings: 1." in page.lead
    assert "the last call that failed: 1." in page.lead


@pytest.mark.slow
def test_the_pages_are_small_safe_and_lead_to_each_other(out, tmp_path, without_viewer):
    target = write_reconstruction_pages(out)
    text = target.read_text()
    assert target == out / "report.html"
    assert EVIL not in text
    assert "&lt;img src=x" in text
    assert '<a href="b2/report.html">b2</a>' in text
    assert text.count("data:image/png") == 3  # a case each, from three sides
    case = (out / "b2" / "report.html").read_text()
    assert len(case) < 5e6
    assert EVIL not in case
    elsewhere = write_reconstruction_pages(out, tmp_path / "all.html")
    address = elsewhere.read_text().split('<a href="')[1].split('"')[0]
    assert (tmp_path / address).resolve() == (out / "b2" / "report.html").resolve()


@pytest.mark.slow
def test_only_the_pages_of_new_cases_are_written_again(out, tmp_path, without_viewer):
    folder = tmp_path / "out"
    shutil.copytree(out, folder)
    write_reconstruction_pages(folder)
    for name in ("a1", "b2"):
        (folder / name / "report.html").write_text("old")
    (folder / "c3" / "report.html").unlink()
    write_reconstruction_pages(folder, only=["b2"])
    lengths = [len((folder / name / "report.html").read_text()) for name in ("a1", "b2", "c3")]
    assert [length > 100 for length in lengths] == [False, True, True]


@pytest.mark.slow
def test_one_case_is_one_file(tmp_path, without_viewer):
    make_output(tmp_path)
    make_case(tmp_path, "only")
    target = write_reconstruction_pages(tmp_path)
    assert "Reconstruction of only" in target.read_text()
    assert not (tmp_path / "only" / "report.html").exists()
    single = write_reconstruction_pages(tmp_path / "only")
    assert single.read_text() == target.read_text()
    assert is_reconstruction(tmp_path / "only")
    assert not is_reconstruction(tmp_path / "only" / "nowhere")


@pytest.mark.slow
def test_a_case_that_is_done_again_loses_its_page(tmp_path, without_viewer):
    make_output(tmp_path, {"b": "no skull"})
    make_case(tmp_path, "a")
    write_reconstruction_pages(tmp_path)
    assert {"report.html", "report.png"} <= {path.name for path in (tmp_path / "a").iterdir()}
    make_case(tmp_path, "a", 0.5)
    assert not list((tmp_path / "a").glob("report.*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda case: (case / "implant.nii.gz").unlink(), "there is no such file"),
        (lambda case: (case / "case.json").write_text("{"), "case.json"),
        (lambda case: (case / "case.json").write_text("{}"), "names no volume completed"),
        (
            lambda case: (case / "case.json").write_text(
                json.dumps({"files": {"../completed.nii.gz": ""}})
            ),
            "names no volume completed",
        ),
    ],
)
def test_a_damaged_case_is_one_line(tmp_path, change, message):
    case = make_case(tmp_path, "a")
    change(case)
    with pytest.raises(InputError, match=message) as caught:
        case_page(case)
    assert len(caught.value.faults) == 1


def test_a_folder_without_a_case_says_why(tmp_path):
    make_output(tmp_path, {"a": "no skull"})
    with pytest.raises(InputError) as caught:
        write_reconstruction_pages(tmp_path)
    assert caught.value.faults == ("a: no skull",)


def test_the_record_of_another_version_has_a_page(tmp_path):
    case = make_case(tmp_path, "a")
    record = json.loads((case / "case.json").read_text())
    strange = {"implant": {"box_mm": ["a"], "volume_ml": "b"}, "warnings": 3, "defect": []}
    (case / "case.json").write_text(json.dumps({"files": record["files"], **strange}))
    page, _ = case_page(case)
    assert page.facts["confidence"] == "unknown (unknown)"
    assert render(page)


@pytest.mark.parametrize("turn", [np.diag([1.0, 1, 1, 1]), np.diag([-1.0, -1, 1, 1])])
def test_left_and_right_are_those_of_the_patient_whatever_the_axes(tmp_path, turn):
    """The implant is at the patient's right and front; files may count from the left and back."""
    case = make_case(tmp_path, "a", affine=turn @ np.diag([6.0, 6.0, 6.0, 1.0]))
    files = json.loads((case / "case.json").read_text())["files"]
    shown = read_shown(case, files)
    skull, implant = np.argwhere(shown.bone).mean(axis=0), np.argwhere(shown.implant).mean(axis=0)
    signs = np.sign(np.diag(turn))[:2]
    assert np.array_equal(np.sign(implant - skull)[:2], signs)
    content = scene_of(shown, "a", "a").still
    image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    axial = image[60 : image.shape[0] // 2 - 30, : image.shape[1] // 3]
    blue = np.abs(axial - (0, 114, 178)).max(axis=2) < 12
    columns = np.nonzero(blue)[1]
    assert columns.size > 100
    on_the_left = columns.mean() < axial.shape[1] / 2
    assert on_the_left == (signs[0] > 0), "the right of the patient is on the left of the image"


def test_fine_voxels_are_put_together_and_the_page_says_so(tmp_path):
    case = make_case(tmp_path, "a", affine=np.diag([1.0, 1.0, 1.0, 1.0]), factor=3)
    files = json.loads((case / "case.json").read_text())["files"]
    shown = read_shown(case, files)
    assert shown.steps == (3, 3, 3)
    scene = scene_of(shown, "a", "a")
    assert "blocks of 3 \N{MULTIPLICATION SIGN} 3" in scene.note
    ml = np.count_nonzero(shown.implant) * abs(np.linalg.det(shown.affine[:3, :3]))
    assert ml == pytest.approx(scene.parts[1].mesh.volume_mm3, rel=0.2)
    middle = shown.affine[:3, :3] @ np.argwhere(shown.implant).mean(axis=0) + shown.affine[:3, 3]
    assert middle == pytest.approx(scene.parts[1].mesh.centroid_mm, abs=0.5)


def test_the_implant_is_painted_by_confidence_and_parts_in_one_place_exclude_each_other(out):
    files = json.loads((out / "a1" / "case.json").read_text())["files"]
    scene = scene_of(read_shown(out / "a1", files), "a", "a")
    parts = {part.name: part for part in scene.parts}
    painted = parts["confidence"].painted
    assert painted is not None
    high = parts["confidence"].mesh.vertices[:, 2]
    doubtful = np.abs(painted.astype(int) - CONFIDENCE[1][1]).max(axis=1) == 0
    sure = np.abs(painted.astype(int) - CONFIDENCE[4][1]).max(axis=1) == 0
    assert high[doubtful].mean() > high[sure].mean() + 10
    assert "implant" in parts["confidence"].instead_of
    assert set(parts["completed"].instead_of) == {"skull", "implant", "confidence"}
    assert [layer.visible for layer in scene.layers] == [True, False]


def test_an_implant_without_a_readable_mesh_is_made_from_its_voxels(tmp_path):
    case = make_case(tmp_path, "a", formats=("3mf",))
    files = json.loads((case / "case.json").read_text())["files"]
    shown = read_shown(case, files)
    assert shown.implant_faces is None
    assert shown.implant_mesh.is_watertight


def test_means_of_blocks_keep_their_place():
    means, placed = coarser(np.ones((5, 4, 4), bool), np.diag([1.0, 1, 1, 1]), (2, 2, 4))
    assert means.shape == (3, 2, 1)
    assert (means == 1).all()
    assert placed[:3, 3].tolist() == [0.5, 0.5, 1.5]


def test_a_direction_of_another_version_is_unknown():
    assert direction_words(None) == "unknown"
    assert direction_words([0.0, 0.0, 0.0]) == "unknown"
