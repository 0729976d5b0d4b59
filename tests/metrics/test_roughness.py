from __future__ import annotations

import numpy as np
import pytest

from famseg.metrics import surface_roughness

UNIT = (1.0, 1.0, 1.0)


def radii(size=64):
    axes = np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 3, indexing="ij")
    return np.sqrt(sum(axis**2 for axis in axes)), axes


def plate(size=60, thickness=6):
    mask = np.zeros((size, size, thickness + 4), dtype=bool)
    mask[:, :, 2:-2] = True
    return mask


@pytest.mark.parametrize("radius", [12.0, 20.0, 28.0])
def test_a_smooth_ball_has_the_grid_s_roughness_whatever_its_curvature(ball, radius):
    assert surface_roughness(ball(radius, 64), UNIT) == pytest.approx(0.216, abs=0.01)


def test_a_flat_plate_is_smooth_but_for_its_edges():
    assert surface_roughness(plate(), UNIT) < 0.12
    assert surface_roughness(plate(120), UNIT) < surface_roughness(plate(30), UNIT)


@pytest.mark.parametrize("edge", [0.5, 2.0])
def test_it_scales_with_the_voxel(ball, edge):
    mask = ball(20.0, 64)
    scaled = surface_roughness(mask, (edge,) * 3, radius_mm=5 * edge)
    assert scaled == pytest.approx(edge * surface_roughness(mask, UNIT), rel=1e-6)


@pytest.mark.parametrize("amplitude", [1.0, 1.5])
def test_ripples_of_known_height_are_measured(amplitude):
    """A sine of that amplitude deviates by amplitude / sqrt(2), the grid by 0.2 on top."""
    radius, (_, _, z) = radii()
    rippled = radius <= 24 + amplitude * np.sin(2 * np.pi * z / 5)
    wanted = np.hypot(amplitude / np.sqrt(2), 0.2)
    assert surface_roughness(rippled, UNIT) == pytest.approx(wanted, rel=0.15)


def test_a_staircase_is_rougher_than_a_smooth_surface():
    """A ball of voxels of 4 mm, shown in voxels of 1 mm: steps of 4 mm, evenly high."""
    coarse = radii(16)[0] <= 6
    stairs = np.kron(coarse, np.ones((4, 4, 4), dtype=bool))
    smooth = radii()[0] <= 24
    assert surface_roughness(stairs, UNIT) > 3 * surface_roughness(smooth, UNIT)
    wide = surface_roughness(stairs, UNIT, radius_mm=12.0)
    assert wide == pytest.approx(4 / np.sqrt(12), rel=0.2)


def test_noise_is_rough_and_more_noise_is_rougher():
    radius, _ = radii()
    noise = np.random.default_rng(0).random(radius.shape)
    found = [surface_roughness(radius <= 24 + height * (noise - 0.5), UNIT) for height in (0, 2, 4)]
    assert found[0] < 0.25 < found[1] < found[2]


def test_the_far_side_of_a_thin_plate_is_not_roughness():
    assert surface_roughness(plate(60, 3), UNIT) == pytest.approx(
        surface_roughness(plate(60, 8), UNIT), abs=0.1
    )


def test_axes_may_change_places_with_the_spacing(blob):
    mask, spacing = blob(3, (24, 30, 28)), (0.5, 1.0, 1.5)
    plain = surface_roughness(mask, spacing)
    turned = surface_roughness(mask.transpose(2, 0, 1), (1.5, 0.5, 1.0))
    assert turned == pytest.approx(plain, rel=0.1)  # other faces are drawn


def test_where_the_mask_lies_does_not_matter(ball):
    mask = ball(8.0, 20)
    moved = np.pad(mask, ((0, 9), (7, 0), (3, 2)))
    assert surface_roughness(moved, UNIT) == surface_roughness(mask, UNIT)
    assert surface_roughness(mask, UNIT) == surface_roughness(mask, UNIT)


@pytest.mark.parametrize("density", [0.02, 0.5])
def test_no_surface_is_rougher_than_the_radius(density):
    noise = np.random.default_rng(0).random((40, 40, 40)) < density
    assert 0.5 < surface_roughness(noise, UNIT) <= 5.0


def test_specks_are_no_surface(ball):
    mask = ball(20.0, 64)
    specks = mask.copy()
    specks[:3:2, ::5, ::5] = True  # too far from each other and from the ball to be a surface
    assert surface_roughness(specks, UNIT) == pytest.approx(surface_roughness(mask, UNIT), rel=0.1)
    speck = np.zeros((5, 5, 5), dtype=bool)
    speck[2, 2, 2] = True
    assert surface_roughness(speck, UNIT) == 5.0
    assert np.isnan(surface_roughness(np.zeros_like(speck), UNIT))


def test_faulty_input_is_refused(box):
    with pytest.raises(ValueError, match="radius_mm must be a positive length in mm, got -1"):
        surface_roughness(box, UNIT, radius_mm=-1)
    with pytest.raises(ValueError, match=r"got \(1, 20, 20, 20\)\. Remove the batch"):
        surface_roughness(box[None], UNIT)


@pytest.mark.slow
def test_a_real_skull_s_patch_is_smoother_than_the_same_with_noise(real_data):
    from famseg.volumes import read_volume

    head = read_volume(real_data / "skulls" / "heads128" / "visible_human_tusx.nii.gz")
    mask = head.array > 0
    mask[:, :, : mask.shape[2] * 2 // 3] = False
    noisy = mask ^ (np.random.default_rng(0).random(mask.shape) < 0.05)
    spacing = head.spacing_mm
    smooth = surface_roughness(mask, spacing)
    assert smooth < 0.6 * max(spacing)
    assert surface_roughness(noisy, spacing) > 2 * smooth
