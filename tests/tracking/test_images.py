from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from famseg.tracking._images import cell, to_image
from famseg.tracking._outbox import RefusedError


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 200]], np.uint8), [[0, 200]]),
        (np.array([[False, True]]), [[0, 255]]),
        (np.array([[0.0, 0.5, 1.0]]), [[0, 128, 255]]),
        (np.array([[-1.0, 2.0, np.nan]], np.float32), [[0, 255, 0]]),
    ],
)
def test_arrays_become_gray_images(array, expected):
    assert np.asarray(to_image(array)).tolist() == expected


def test_colors_stay():
    image = to_image(np.array([[[255, 0, 10]]], np.uint8))
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == (255, 0, 10)


def test_files_are_read_with_a_palette_or_transparency(tmp_path):
    Image.new("P", (3, 2)).save(tmp_path / "a.png")
    assert to_image(tmp_path / "a.png").size == (3, 2)


@pytest.mark.parametrize("source", [np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 7)), "none.png"])
def test_what_is_no_image_is_refused(source):
    with pytest.raises(RefusedError):
        to_image(source)


def test_cells_are_json():
    torch = pytest.importorskip("torch")
    row = [np.float32(0.5), np.int64(3), torch.tensor(2.0), np.float64("inf"), True, None, b"x"]
    assert json.loads(json.dumps([cell(value) for value in row])) == [
        0.5,
        3,
        2.0,
        None,
        True,
        None,
        "b'x'",
    ]
