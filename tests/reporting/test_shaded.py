from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from famseg.meshes import Mesh, surface_mesh
from famseg.reporting._shaded import BACK, FRONT, LEFT, PANEL, RIGHT, TOP, shaded_views, three_sides

BONE, MARK = np.array([220, 210, 190], np.uint8), np.array([0, 110, 180], np.uint8)


def head() -> list[tuple[Mesh, np.ndarray]]:
    """A box, long from back to front, with a mark at the front of its right side, near the top."""
    box = np.zeros((24, 34, 28), bool)
    box[2:22, 2:32, 2:26] = True
    mark = np.zeros_like(box)
    mark[19:24, 23:31, 17:25] = True
    place = np.diag([5.0, 5.0, 5.0, 1.0])
    return [
        (surface_mesh(each, place, smoothing_mm=3.0), color)
        for each, color in ((box, BONE), (mark, MARK))
    ]


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def where(side) -> tuple[float, float]:
    """Where the mark is in a view: 0 to 1 to the right and downwards, from the box's edges."""
    shown = pixels(shaded_views(head(), [side]))[30 : PANEL - 30, 30 : PANEL - 30]
    solid = shown.min(axis=2) < 215
    marked = shown[..., 2] > shown[..., 0] + 30
    assert marked.sum() > 50, side
    return tuple(
        float((np.mean(np.nonzero(marked)[axis]) - edge.min()) / np.ptp(edge))
        for axis, edge in ((1, np.nonzero(solid)[1]), (0, np.nonzero(solid)[0]))
    )


@pytest.mark.parametrize(
    ("side", "right_half", "lower_half"),
    [
        (FRONT, False, False),  # the patient's right is on the left
        (TOP, False, True),  # so it is from above, with the front below
        (RIGHT, True, False),
        (BACK, True, False),
    ],
)
def test_each_view_shows_the_sides_where_its_letters_say(side, right_half, lower_half) -> None:
    across, down = where(side)
    assert (across > 0.5, down > 0.5) == (right_half, lower_half)


@pytest.mark.parametrize("side", [FRONT, BACK, LEFT, RIGHT, TOP])
def test_the_letters_are_the_directions_of_the_axes(side) -> None:
    across = np.cross(side.up, side.towards)
    names = {(1, 0, 0): "R", (-1, 0, 0): "L", (0, 1, 0): "A", (0, -1, 0): "P", (0, 0, 1): "S"}
    names[(0, 0, -1)] = "I"
    wanted = [
        tuple(int(v) for v in sign * np.array(axis))
        for axis in (across, side.up)
        for sign in (-1, 1)
    ]
    assert "".join(names[each] for each in wanted) == side.edges


def test_what_is_in_front_hides_what_is_behind() -> None:
    shown = pixels(shaded_views(head(), [LEFT]))
    assert (shown[..., 2] > shown[..., 0] + 30).sum() == 0, "the mark is on the other side"


def test_a_surface_has_no_holes() -> None:
    shown = pixels(shaded_views(head()[:1], [FRONT]))
    solid = shown.min(axis=2) < 215
    rows, columns = np.nonzero(solid[40 : PANEL - 40, 40 : PANEL - 40])
    top, bottom, left, right = (
        40 + int(edge) for edge in (rows.min(), rows.max(), columns.min(), columns.max())
    )
    inner = solid[top + 12 : bottom - 12, left + 12 : right - 12]
    assert inner.all()


def test_the_side_of_the_defect_is_one_of_the_three() -> None:
    labels = [[side.label for side in three_sides(azimuth)][1] for azimuth in (100, 260, 10, 350)]
    assert labels == ["from the left", "from the right", "from behind", "from behind"]


def test_the_same_surfaces_give_the_same_small_file() -> None:
    content = shaded_views(head(), three_sides(250))
    assert content == shaded_views(head(), three_sides(250))
    assert len(content) < 60_000


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no surface to draw: give at least one"):
        shaded_views([], [FRONT])
