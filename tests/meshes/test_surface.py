from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from skimage.measure import marching_cubes
from solids import CT, Cap, grid

from famseg.meshes import (
    Mesh,
    distances_mm,
    is_manifold,
    largest_pieces,
    surface_mesh,
    surface_mesh_of_field,
    voxelize,
)


def egg(points: np.ndarray) -> np.ndarray:
    """A smooth body with a bump to one side: no turn or mirror maps it onto itself."""
    body = np.exp(-((points / [14.0, 10.0, 8.0]) ** 2).sum(axis=-1))
    bump = np.exp(-(((points - [9.0, 5.0, 4.0]) / 5.0) ** 2).sum(axis=-1))
    return body + bump > 0.4


def test_a_cap_at_ct_resolution() -> None:
    cap = Cap(angle=0.4)
    mask, affine = cap.grid(CT)
    mesh = surface_mesh(mask, affine)
    assert mesh.volume_mm3 == pytest.approx(mask.sum() * np.prod(CT), rel=5e-4)
    assert mesh.volume_mm3 == pytest.approx(cap.volume_mm3, rel=5e-3)
    assert cap.normal_deviation_deg(mesh).mean() < 1.3
    assert mesh.is_watertight
    assert is_manifold(mesh) == (True, "")

    vertices, faces, _, _ = marching_cubes(mask.astype(float), 0.5, gradient_direction="ascent")
    binary = Mesh(vertices @ affine[:3, :3].T + affine[:3, 3], faces)
    assert cap.normal_deviation_deg(binary).mean() > 30


@pytest.mark.parametrize("tilt_deg", [0, 23, 45])
@pytest.mark.parametrize("smoothing_mm", [None, 1.0])
def test_a_plate_of_two_voxels_is_neither_lost_nor_perforated(
    tilt_deg: float, smoothing_mm: float | None
) -> None:
    normal = Rotation.from_euler("xy", [tilt_deg, tilt_deg / 2], degrees=True).apply([0, 0, 1])

    def thick_and_thin(points: np.ndarray) -> np.ndarray:
        near = np.linalg.norm(points, axis=-1) <= 16
        half = np.where(points[..., 0] < -6, 5.0, 1.0)  # a block that merges into a plate
        return near & (np.abs(points @ normal) <= half)

    mask, affine = grid(thick_and_thin, np.zeros(3), 36, (1.0, 1.0, 1.0))
    mesh = surface_mesh(mask, affine, smoothing_mm=smoothing_mm)
    assert len(largest_pieces(mesh).faces) == len(mesh.faces)
    assert len(mesh.vertices) - len(mesh.faces) / 2 == 2  # Euler: one sphere, without a tunnel
    assert mesh.volume_mm3 == pytest.approx(mask.sum(), rel=5e-4)
    thin = mask & (np.moveaxis(np.indices(mask.shape), 0, -1)[..., 0] + affine[0, 3] > 0)
    assert (voxelize(mesh, mask.shape, affine) & thin).sum() > 0.9 * thin.sum()


def test_a_single_voxel() -> None:
    mesh = surface_mesh(np.ones((1, 1, 1)), np.diag([0.5, 0.5, 2.0, 1.0]))
    assert mesh.volume_mm3 == pytest.approx(0.5, rel=5e-4)
    assert mesh.centroid_mm == pytest.approx([0, 0, 0], abs=1e-3)


GRIDS = {
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "mirrored": np.diag([-1.0, 1.0, 1.0]),
    "axes in another order": np.eye(3)[[2, 0, 1]],
    "oblique": Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix(),
    "sheared": np.array([[1.0, 0, 0], [0, 1.0, 0.36], [0, 0, 1.0]]),
}


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), CT])
@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_of_voxels_up_to_1_mm_gives_the_same_mesh_within_0_2_mm(
    name: str, spacing: tuple[float, float, float]
) -> None:
    center = np.array([3.0, -40.0, 100.0])
    plain = surface_mesh(*grid(lambda p: egg(p - center), center, 36, (1.0, 1.0, 1.0)))
    mask, affine = grid(lambda p: egg(p - center), center, 36, spacing, GRIDS[name])
    mesh = surface_mesh(mask, affine)
    assert mesh.volume_mm3 == pytest.approx(mask.sum() * abs(np.linalg.det(affine)), rel=5e-4)
    assert mesh.is_watertight
    apart = np.concatenate([distances_mm(mesh.vertices, plain), distances_mm(plain.vertices, mesh)])
    assert np.percentile(apart, 95) < 0.2
    assert apart.mean() < 0.07
    # Where the surface is parallel to slices, a mask determines its position only to half a slice.
    assert apart.max() < max(spacing) / 2


def test_turned_grids_of_coarser_voxels_agree_within_0_2_mm_only_on_average() -> None:
    center, edge = np.array([3.0, -40.0, 100.0]), (1.75, 1.75, 1.75)
    plain = surface_mesh(*grid(lambda p: egg(p - center), center, 36, edge))
    turned = surface_mesh(*grid(lambda p: egg(p - center), center, 36, edge, GRIDS["oblique"]))
    apart = np.concatenate(
        [distances_mm(turned.vertices, plain), distances_mm(plain.vertices, turned)]
    )
    assert apart.mean() < 0.2
    assert apart.max() < 1.75 / 2


def test_flipped_and_reordered_axes_give_the_very_same_surface() -> None:
    mask, affine = grid(egg, np.zeros(3), 36, CT)
    flipped = affine.copy()
    flipped[:3, 3] += affine[:3, 0] * (len(mask) - 1)
    flipped[:3, 0] *= -1
    mesh = surface_mesh(mask, affine)
    reordered = mask.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]]
    for voxels, place in ((mask[::-1], flipped), reordered):
        other = surface_mesh(voxels, place)
        assert distances_mm(other.vertices, mesh).max() < 2e-3
        assert distances_mm(mesh.vertices, other).max() < 2e-3
        assert other.volume_mm3 == pytest.approx(mesh.volume_mm3, rel=1e-4)


def test_a_mask_that_touches_the_border_is_closed() -> None:
    mask, affine = np.ones((12, 9, 7), dtype=bool), np.diag([0.5, 1.0, 1.0, 1.0])
    mesh = surface_mesh(mask, affine)
    assert mesh.is_watertight
    assert mesh.volume_mm3 == pytest.approx(378, rel=5e-4)


def test_many_random_masks_give_solids() -> None:
    rng = np.random.default_rng(0)
    for density in (0.02, 0.3, 0.5, 0.9):
        mask = rng.random((14, 14, 14)) < density
        assert is_manifold(surface_mesh(mask, np.eye(4))) == (True, "")
        assert is_manifold(surface_mesh(mask, np.eye(4), smoothing_mm=0)) == (True, "")


def test_far_away_noise_does_not_tear_the_surface() -> None:
    cap = Cap(angle=0.25)
    mask, affine = cap.grid((1.0, 1.0, 1.0))
    rng = np.random.default_rng(1)
    rough = mask.copy()
    for axis in range(3):  # 3 % of the voxels next to the border change
        rough ^= (mask != np.roll(mask, 1, axis)) & (rng.random(mask.shape) < 0.03)
    mesh = surface_mesh(rough, affine)
    assert cap.normal_deviation_deg(mesh).mean() < 3.5
    assert len(largest_pieces(mesh, count=1).faces) == len(mesh.faces)


def test_levels_that_voxels_have_give_triangles_with_an_area() -> None:
    field = np.abs(np.indices((13, 13, 13)) - 6).sum(axis=0)  # whole numbers
    mesh = surface_mesh_of_field(-field, np.eye(4), -4.0)
    assert is_manifold(mesh) == (True, "")
    assert np.linalg.norm(mesh.area_vectors_mm2, axis=1).min() > 0
    assert mesh.volume_mm3 == pytest.approx(4**3 * 8 / 6, rel=0.01)  # an octahedron


def test_a_field_is_closed_where_it_meets_the_border() -> None:
    mesh = surface_mesh_of_field(np.ones((4, 5, 6)), np.diag([1, 1, -1, 1]), 0.5)
    assert mesh.is_watertight
    assert mesh.volume_mm3 == pytest.approx(4 * 5 * 6, rel=0.1)  # edges are cut off


def test_simplified_to_a_number_of_faces() -> None:
    mask, affine = grid(egg, np.zeros(3), 36, (1.0, 1.0, 1.0))
    mesh = surface_mesh(mask, affine)
    small = surface_mesh(mask, affine, max_faces=600)
    assert len(small.faces) <= 600 < len(mesh.faces)
    assert is_manifold(small) == (True, "")
    assert distances_mm(small.vertices, mesh).max() < 1e-3  # vertices are a part of the old ones
    assert small.volume_mm3 == pytest.approx(mesh.volume_mm3, rel=0.05)


@pytest.mark.parametrize(
    ("mask", "affine", "smoothing_mm", "words"),
    [
        (np.zeros((3, 3, 3)), np.eye(4), None, "the mask is empty: it has no surface"),
        (np.ones((3, 3)), np.eye(4), None, "a mask must have three axes, got shape (3, 3)"),
        (np.ones((3, 3, 3)), np.eye(3), None, "the affine must have shape (4, 4), got (3, 3)"),
        (
            np.ones((3, 3, 3)),
            np.diag([1, 1, 0, 1]),
            None,
            "the affine must be finite and have a voxel volume above 0",
        ),
        (np.ones((3, 3, 3)), np.eye(4), -1.0, "smoothing_mm must be 0 or more, got -1.0"),
    ],
)
def test_what_has_no_surface(
    mask: np.ndarray, affine: np.ndarray, smoothing_mm: float | None, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        surface_mesh(mask, affine, smoothing_mm=smoothing_mm)


def test_fields_without_a_surface() -> None:
    with pytest.raises(ValueError, match=r"nowhere above its level of 0\.5"):
        surface_mesh_of_field(np.zeros((3, 3, 3)), np.eye(4), 0.5)
    with pytest.raises(ValueError, match="must be finite"):
        surface_mesh_of_field(np.full((3, 3, 3), np.nan), np.eye(4), 0.5)
