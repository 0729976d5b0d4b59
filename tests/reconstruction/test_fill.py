from __future__ import annotations

import numpy as np

from famseg.reconstruction._fill import fill


def ring(count: int, width: int) -> np.ndarray:
    known = np.ones((count, count), dtype=bool)
    known[width:-width, width:-width] = False
    return known


def test_without_tension_a_plane_is_continued_exactly():
    known = ring(31, 6)
    x, y = np.meshgrid(np.arange(31.0), np.arange(31.0), indexing="ij")
    plane = 3 + 0.2 * x - 0.4 * y
    found = fill(np.where(known, plane, 99.0), known * 1.0, known | True, 1.5, tension=0.0)
    np.testing.assert_allclose(found, plane, atol=1e-5)


def test_the_answer_does_not_depend_on_the_size_of_pixels():
    surfaces = []
    for count, pixel_mm in ((41, 2.0), (81, 1.0)):
        at = (np.arange(count) - count // 2) * pixel_mm
        x, y = np.meshgrid(at, at, indexing="ij")
        known = np.maximum(abs(x), abs(y)) > 24
        bowl = 80 - (x**2 + y**2) / 160
        surfaces.append(fill(bowl, known * 0.05, known | True, pixel_mm, tension=1e-3))
    np.testing.assert_allclose(
        surfaces[0][5:-5, 5:-5], surfaces[1][::2, ::2][5:-5, 5:-5], atol=0.15
    )


def test_tension_keeps_a_wide_plate_from_overshooting():
    at = np.arange(-40, 41.0)
    x, _ = np.meshgrid(at, at, indexing="ij")
    known = abs(x) > 25
    slope = np.where(known, (abs(x) - 25) * -0.5, 0.0)  # both sides rise towards the middle
    free, tight = (fill(slope, known * 1.0, known | True, 1.0, tension=t) for t in (0.0, 0.05))
    assert free[40, 40] > 5 > 2 > tight[40, 40] > 0


def test_pixels_out_of_use_stay_empty_and_channels_are_filled_alike():
    use = np.ones((20, 20), dtype=bool)
    use[:3] = False
    known = use & ring(20, 5)
    data = np.where(known, np.arange(20.0), 0.0)
    both = fill(np.stack([data, 2 * data]), known * 1.0, use, 1.0, tension=1e-3)
    assert np.isnan(both[:, :3]).all()
    np.testing.assert_allclose(both[1][use], 2 * both[0][use], rtol=1e-4, atol=1e-3)


def test_the_surface_is_the_least_of_the_sum_written_out():
    rng = np.random.default_rng(0)
    use = rng.random((7, 9)) < 0.9
    values, weights = rng.normal(size=(2, 7, 9)), rng.random((7, 9)) * (rng.random((7, 9)) < 0.5)
    pixel_mm, tension = 1.5, 0.3
    number = {place: count for count, place in enumerate(zip(*np.nonzero(use), strict=True))}
    matrix = np.diag(weights[use] * pixel_mm**2 + 1e-9)
    bend, twist = 1 / pixel_mm**2, 2 / pixel_mm**2
    for i, j in np.ndindex(use.shape):
        for step, factor in (
            ({(i - 1, j): 1, (i, j): -2, (i + 1, j): 1}, bend),
            ({(i, j - 1): 1, (i, j): -2, (i, j + 1): 1}, bend),
            ({(i, j): 1, (i + 1, j): -1, (i, j + 1): -1, (i + 1, j + 1): 1}, twist),
            ({(i, j): -1, (i + 1, j): 1}, tension),
            ({(i, j): -1, (i, j + 1): 1}, tension),
        ):
            if all(place in number for place in step):
                row = np.zeros(len(number))
                row[[number[place] for place in step]] = list(step.values())
                matrix += factor * np.outer(row, row)
    wanted = np.linalg.solve(matrix, ((values * weights)[:, use] * pixel_mm**2).T).T
    found = fill(values, weights, use, pixel_mm, tension=tension)
    np.testing.assert_allclose(found[:, use], wanted, atol=1e-9)
    assert np.isnan(found[:, ~use]).all()
