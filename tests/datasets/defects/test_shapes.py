from __future__ import annotations

import numpy as np
import pytest

from famseg.datasets import BoxDefect, Defect, SphereDefect, SpheresDefect
from famseg.messages import InputError

UP = np.array([0.0, 0.0, 1.0])
DEFECTS = [SphereDefect(), BoxDefect(), SpheresDefect()]


def grid(reach: float, step: float = 1.0) -> np.ndarray:
    axis = np.arange(-np.ceil(reach), np.ceil(reach) + step, step)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_shape_is_a_pure_function_of_the_generator(defect: Defect) -> None:
    points = grid(50, 5.0)
    one, two, other = (
        defect.draw(np.random.default_rng(seed), UP).inside(points) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("defect", DEFECTS)
def test_no_point_lies_beyond_the_reach_and_the_origin_lies_inside(defect: Defect) -> None:
    for seed in range(10):
        body = defect.draw(np.random.default_rng(seed), UP)
        points = grid(body.reach_mm + 10, 2.0)
        inside = body.inside(points)
        assert np.linalg.norm(points, axis=-1)[inside].max() <= body.reach_mm
        assert body.inside(np.zeros((1, 3))).all()


def test_a_sphere_has_the_diameter_drawn() -> None:
    body = SphereDefect(size_mm=(30.0, 30.0)).draw(np.random.default_rng(0), UP)
    assert body.inside(grid(20)).sum() == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.01)


def test_a_box_has_the_edges_drawn_in_a_random_orientation() -> None:
    defect = BoxDefect(size_mm=(20.0, 20.0))
    drawn = [defect.draw(np.random.default_rng(seed), UP).inside(grid(20)) for seed in (0, 1)]
    assert drawn[0].sum() == pytest.approx(20**3, rel=0.05)
    assert not np.array_equal(*drawn)


def test_spheres_without_deformation_fit_into_a_ball_of_the_size_drawn() -> None:
    defect = SpheresDefect(size_mm=(60.0, 60.0), deformation=0.0)
    for seed in range(10):
        points = grid(34, 2.0)
        inside = defect.draw(np.random.default_rng(seed), UP).inside(points)
        assert np.linalg.norm(points, axis=-1)[inside].max() <= 30.0
        assert inside.sum() * 8 >= 4 / 3 * np.pi * 18**3 * 0.95, "the ball in the middle at least"


def test_spheres_spread_along_the_wall() -> None:
    defect = SpheresDefect(size_mm=(60.0, 60.0), deformation=0.0)
    extent = np.zeros(3)
    for seed in range(30):
        points = grid(32, 2.0)
        inside = defect.draw(np.random.default_rng(seed), UP).inside(points)
        extent += np.ptp(points[inside], axis=0) / 30
    assert extent[:2].min() > extent[2] + 3


def test_the_deformation_is_bounded_and_changes_the_outline() -> None:
    points = grid(40)
    sizes = (60.0, 60.0)
    plain, bent = (
        SpheresDefect(size_mm=sizes, deformation=d).draw(np.random.default_rng(3), UP)
        for d in (0.0, 0.3)
    )
    inside = bent.inside(points)
    assert not np.array_equal(plain.inside(points), inside)
    assert np.linalg.norm(points, axis=-1)[inside].max() <= 30 * 1.3


@pytest.mark.parametrize(
    ("make", "faults"),
    [
        (
            lambda: SphereDefect(size_mm=(20.0, 10.0)),
            ("defect sphere: size_mm [20.0, 10.0] must be two lengths above 0 mm in rising order",),
        ),
        (
            lambda: BoxDefect(size_mm=(0.0, 10.0), elevation_deg=(0.0, 100.0)),
            (
                "defect box: size_mm [0.0, 10.0] must be two lengths above 0 mm in rising order",
                "defect box: elevation_deg [0.0, 100.0] must be two angles from -90 to "
                "90 in rising order",
            ),
        ),
        (
            lambda: SpheresDefect(spheres=(4, 2)),
            ("defect spheres: count (4, 2) must be two numbers from 1 to 64 in rising order",),
        ),
        (
            lambda: SpheresDefect(deformation=0.5),
            ("defect spheres: deformation 0.5 must be 0 to 0.3",),
        ),
    ],
)
def test_faulty_ranges(make, faults: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.faults == faults
