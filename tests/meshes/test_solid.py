from __future__ import annotations

import re

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from famseg.meshes import (
    Mesh,
    intersect,
    is_manifold,
    largest_pieces,
    simplify,
    subtract,
    surface_mesh,
    union,
    voxelize,
)
from famseg.meshes._mesh import joined


def box(low: float, high: float) -> Mesh:
    solid = trimesh.creation.box(bounds=[[low] * 3, [high] * 3])
    return Mesh(solid.vertices, solid.faces)


def inverted(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices, mesh.faces[:, ::-1])


def test_measures_of_a_box_wherever_it_is() -> None:
    far = Mesh(box(0, 2).vertices + 1e6, box(0, 2).faces)
    for mesh, start in ((box(0, 2), 0.0), (far, 1e6)):
        assert mesh.volume_mm3 == pytest.approx(8)
        assert mesh.area_mm2 == pytest.approx(24)
        assert mesh.bounds_mm - start == pytest.approx(np.array([[0] * 3, [2] * 3]))
        assert mesh.centroid_mm - start == pytest.approx([1, 1, 1])
        assert mesh.is_watertight
    assert inverted(box(0, 2)).volume_mm3 == pytest.approx(-8)


def test_the_centroid_is_that_of_the_volume() -> None:
    solid = trimesh.creation.cone(radius=3.0, height=8.0)
    assert Mesh(solid.vertices, solid.faces).centroid_mm == pytest.approx(solid.center_mass)


def test_open_and_inconsistent_surfaces_are_not_watertight() -> None:
    mesh = box(0, 1)
    assert not Mesh(mesh.vertices, mesh.faces[1:]).is_watertight
    turned = mesh.faces.copy()
    turned[0] = turned[0, ::-1]
    assert not Mesh(mesh.vertices, turned).is_watertight
    assert is_manifold(Mesh(mesh.vertices, turned))[0] is False
    assert is_manifold(inverted(mesh)) == (
        False,
        "it encloses -1 mm3: its triangles face inwards",
    )


@pytest.mark.parametrize(
    ("vertices", "faces", "words"),
    [
        (np.zeros((3, 2)), [[0, 1, 2]], "vertices must have shape (n, 3), got (3, 2)"),
        (np.zeros((3, 3)), [[0, 1]], "faces must have shape (m, 3), got (1, 2)"),
        (np.full((3, 3), np.inf), [[0, 1, 2]], "vertices must be finite"),
        (np.zeros((3, 3)), [[0, 1, 3]], "faces refer to vertices beyond the 3 that there are"),
    ],
)
def test_what_is_not_a_mesh(vertices: np.ndarray, faces: list[list[int]], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Mesh(vertices, faces)


def test_a_mesh_does_not_change() -> None:
    with pytest.raises(ValueError, match="read-only"):
        box(0, 1).vertices[0] = 5


def test_booleans_of_boxes() -> None:
    one, two = box(0, 2), box(1, 3)
    assert union(one, two).volume_mm3 == pytest.approx(15)
    assert intersect(one, two).volume_mm3 == pytest.approx(1)
    assert subtract(one, two).volume_mm3 == pytest.approx(7)
    assert subtract(one, box(-1, 4)).faces.shape == (0, 3)
    assert union(one, box(2, 3)).volume_mm3 == pytest.approx(9)  # they touch at a corner
    with pytest.raises(ValueError, match="the mesh is not that of a solid: an edge does not"):
        union(one, Mesh(two.vertices, two.faces[1:]))


def test_pieces_keep_their_cavities() -> None:
    hollow = joined([box(0, 10), inverted(box(1, 9))])
    core = joined([box(3, 7), inverted(box(4, 6))])  # within that cavity, with one of its own
    crumb = box(20, 21)
    everything = joined([crumb, core, hollow])
    assert largest_pieces(everything, count=1).volume_mm3 == pytest.approx(1000 - 512)
    assert largest_pieces(everything, count=2).volume_mm3 == pytest.approx(1000 - 512 + 64 - 8)
    assert largest_pieces(everything, min_share=0.01).volume_mm3 == pytest.approx(544)
    assert largest_pieces(everything).volume_mm3 == pytest.approx(545)


def test_simplification_stays_within_its_error() -> None:
    ball = trimesh.creation.icosphere(subdivisions=5, radius=10.0)
    mesh = Mesh(ball.vertices, ball.faces)
    small = simplify(mesh, max_error_mm=0.1)
    assert len(small.faces) < len(mesh.faces) / 5
    middles = small.vertices[small.faces].mean(axis=1)
    assert np.linalg.norm(middles, axis=1) == pytest.approx(10, abs=0.15)
    for most in (5000, 500, 200):
        assert len(simplify(mesh, max_faces=most).faces) <= most
        assert is_manifold(simplify(mesh, max_faces=most)) == (True, "")
    assert simplify(mesh, max_faces=10**6) is mesh
    with pytest.raises(ValueError, match="give either max_error_mm or max_faces"):
        simplify(mesh)


def test_voxels_of_a_mesh_on_an_oblique_grid() -> None:
    mask = np.zeros((20, 18, 16), dtype=bool)
    mask[4:15, 5:14, 3:12] = mask[6:10, 6:10, 12:14] = True
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix() * 0.7
    mesh = surface_mesh(mask, affine, smoothing_mm=0.35)
    assert (voxelize(mesh, mask.shape, affine) != mask).mean() < 0.005
    with pytest.raises(ValueError, match="the mesh is open: it has no inside"):
        voxelize(Mesh(mesh.vertices, mesh.faces[1:]), mask.shape, affine)
