from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from famseg.evaluation import SlicesCase, slices_image
from famseg.evaluation.skulls._images import _COLORS, defect_center


@pytest.fixture
def case(box):
    region = np.zeros_like(box)
    region[7:10, 4:8, 5:9] = True
    return SlicesCase(
        "a case", box & ~region, np.roll(box, 1, axis=0), box, region, (1.0, 1.0, 2.0)
    )


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)


def test_every_color_of_the_legend_is_in_the_image(case):
    shown = {tuple(pixel) for pixel in np.unique(pixels(slices_image([case])), axis=0)}
    for color in _COLORS.values():
        assert any(np.allclose(np.array(pixel) / 255, color, atol=0.01) for pixel in shown)


def test_a_right_answer_shows_no_difference(case):
    """The legend's patches alone bear the colors of a difference."""
    right = SlicesCase(case.title, case.image, case.truth, case.truth, case.region, case.spacing_mm)
    wrong_pixels, right_pixels = (pixels(slices_image([each])) / 255 for each in (case, right))
    for name in ("missing from the prediction", "too much in the prediction"):
        wrong, left = (
            (np.abs(each - _COLORS[name]).max(axis=1) < 0.01).sum()
            for each in (wrong_pixels, right_pixels)
        )
        assert wrong > left + 100


def test_a_image_is_the_same_every_time(case):
    assert slices_image([case]) == slices_image([case])


def test_more_cases_make_a_taller_image(case):
    one, two = (Image.open(io.BytesIO(slices_image([case] * n))) for n in (1, 2))
    assert one.width == two.width
    assert one.height < two.height


@pytest.mark.parametrize("panel", [0, 3])  # the input in the axial and in the coronal plane
def test_the_patients_right_is_on_the_left_of_the_image(case, panel):
    head = np.zeros((20, 20, 20), dtype=bool)
    head[12:19, 2:18, 2:18] = True  # bone on the right only
    one = SlicesCase("t", head, head, head, np.zeros_like(head), (1.0, 1.0, 1.0))
    image = np.asarray(Image.open(io.BytesIO(slices_image([one]))).convert("RGB")) / 255
    width = 0.98 * image.shape[1] / 9
    start = round(0.01 * image.shape[1] + panel * width)
    part = image[: image.shape[0] * 3 // 4, start : round(start + 0.9 * width)]
    bone = np.abs(part - _COLORS["bone"]).max(axis=2) < 0.01
    middle = bone.shape[1] // 2
    assert bone[:, :middle].sum() > 4 * bone[:, middle:].sum()


def test_planes_run_through_the_removed_bone(case, box):
    assert defect_center(case.truth, case.region) == (8, 6, 6)
    empty = np.zeros_like(box)
    assert defect_center(empty, case.region) == (8, 6, 6)
    assert defect_center(empty, empty) == (10, 10, 10)


def test_a_region_everywhere_or_nowhere_can_be_drawn(case):
    for region in (np.ones_like(case.region), np.zeros_like(case.region)):
        bare = SlicesCase("t", case.image, case.output, case.truth, region, case.spacing_mm)
        assert slices_image([bare]).startswith(b"\x89PNG")


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="there is no case to draw: give at least one"):
        slices_image([])


def test_a_name_with_dollars_is_no_formula(case):
    assert slices_image([replace(case, title="$x^{$ of \\frac")])
