from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from famseg.meshes import _load as load_module
from famseg.meshes import inside, open_edges
from famseg.messages import InputError
from famseg.preparation import Scan, find_sources


def read(path: Path) -> Scan:
    (source,) = find_sources(path).sources
    return source.read()


def ball(radius_mm: float = 60.0) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=4, radius=radius_mm)


def head(radius_mm: float = 60.0) -> trimesh.Trimesh:
    """A hollow ball with a nose: no flip maps it onto itself. LPS."""
    mesh = ball(radius_mm)
    mesh.apply_translation([10.0, -20.0, 30.0])
    nose = trimesh.creation.box(extents=[10, 10, 10])
    nose.apply_translation([40.0, -20.0 - radius_mm - 30, 30.0])
    inner = ball(radius_mm - 8)
    inner.apply_translation([10.0, -20.0, 30.0])
    inner.invert()
    return trimesh.util.concatenate([mesh, inner, nose])


def save(mesh: trimesh.Trimesh, path: Path) -> Path:
    path.write_bytes(mesh.export(file_type=path.suffix[1:]))
    return path


@pytest.mark.parametrize("name", ["a.stl", "a.ply"])
def test_volume_and_place_are_those_of_the_mesh(name: str, tmp_path: Path) -> None:
    mesh = head()
    scan = read(save(mesh, tmp_path / name))
    assert scan.kind == "mask"
    assert scan.volume.spacing_mm == pytest.approx((0.5, 0.5, 0.5))
    assert scan.volume.array.sum() / 8 == pytest.approx(mesh.volume, rel=2e-3)
    places = np.argwhere(scan.volume.array)
    ras = places @ scan.volume.affine[:3, :3].T + scan.volume.affine[:3, 3]
    assert ras.max(axis=0) == pytest.approx([50.0, 115.0, 90.0], abs=0.5)  # LPS turned to RAS
    nose = ras[ras[:, 1] > 105.0]
    assert nose.mean(axis=0) == pytest.approx([-40.0, 110.0, 30.0], abs=0.3)
    assert scan.notes == (
        "The mesh file does not state its coordinate system: it was read as LPS (x to the left, y "
        "to the back); check left and right.",
        "Voxelized at 0.50 mm.",
    )


def test_a_mesh_made_from_voxels_gives_them_back(skull: np.ndarray, affine: np.ndarray) -> None:
    from trimesh.voxel.ops import matrix_to_marching_cubes

    mesh = matrix_to_marching_cubes(np.pad(skull, 1))  # half a voxel around each
    vertices = (np.asarray(mesh.vertices) - 1) @ affine[:3, :3].T + affine[:3, 3]
    mask, odd = inside(vertices, np.asarray(mesh.faces), affine, skull.shape)
    assert odd == 0
    np.testing.assert_array_equal(mask, skull)


def test_every_corner_of_a_box_on_the_grid() -> None:
    # Rays through middles of voxels would meet vertices, edges and faces on end.
    mesh = trimesh.creation.box(bounds=[[2, 2, 1.5], [7, 7, 5.5]])
    mask, odd = inside(np.asarray(mesh.vertices), np.asarray(mesh.faces), np.eye(4), (10, 10, 10))
    assert odd == 0
    assert mask.sum() == 5 * 5 * 4


def test_the_file_says_ras(tmp_path: Path) -> None:
    content = bytearray(head().export(file_type="stl"))
    content[:30] = b"3D Slicer output. SPACE=RAS".ljust(30)
    (tmp_path / "a.stl").write_bytes(content)
    scan = read(tmp_path / "a.stl")
    ras = np.argwhere(scan.volume.array) @ scan.volume.affine[:3, :3].T + scan.volume.affine[:3, 3]
    assert ras.min(axis=0)[1] == pytest.approx(-115.0, abs=0.5)
    assert scan.notes == ("Voxelized at 0.50 mm.",)


@pytest.mark.parametrize(("factor", "unit"), [(0.001, "m"), (0.1, "cm")])
def test_other_units_are_guessed(factor: float, unit: str, tmp_path: Path) -> None:
    mesh = ball()
    mesh.apply_scale(factor)
    scan = read(save(mesh, tmp_path / "a.stl"))
    assert scan.notes[0] == (
        f"{120 * factor:.3g} long: taken as {unit}, since no head is so small in mm."
    )
    assert scan.volume.array.sum() / 8 == pytest.approx(ball().volume, rel=1e-3)


def test_a_size_that_is_no_head(tmp_path: Path) -> None:
    scan = read(save(ball(350.0), tmp_path / "a.stl"))
    assert scan.notes[0] == "700 mm long, unlike a head: check the unit of the mesh."
    assert max(scan.volume.array.shape) <= 512
    assert scan.volume.spacing_mm[0] == pytest.approx(700 / 508, rel=1e-3)


def test_a_flat_cut_is_closed(tmp_path: Path) -> None:
    cut = ball()
    cut.vertices[:, 2] = np.maximum(cut.vertices[:, 2], -30.0)
    cut.update_faces((cut.triangles[:, :, 2] > -30.0).any(axis=1))
    assert not cut.is_watertight
    scan = read(save(cut, tmp_path / "a.stl"))
    cap = np.pi * 30**2 * (3 * 60 - 30) / 3
    assert scan.volume.array.sum() / 8 == pytest.approx(4 / 3 * np.pi * 60**3 - cap, rel=5e-3)
    assert scan.notes[0].startswith("The mesh was open: ")
    assert " edges without a neighbor in 1 openings of up to " in scan.notes[0]


def test_a_missing_triangle_is_closed(tmp_path: Path) -> None:
    mesh = ball()
    mesh.update_faces(np.arange(len(mesh.faces)) > 0)
    scan = read(save(mesh, tmp_path / "a.stl"))
    assert scan.notes[0].startswith("The mesh was open: 3 edges without a neighbor in 1 openings")
    assert scan.volume.array.sum() / 8 == pytest.approx(ball().volume, rel=1e-3)


def test_a_wide_opening_that_is_not_flat_is_refused(tmp_path: Path) -> None:
    mesh = ball()
    centers = mesh.triangles_center
    mesh.update_faces(~((centers[:, 0] > 0) & (centers[:, 2] > 0)))  # a quarter is gone
    count = len(open_edges(np.asarray(mesh.faces)))
    with pytest.raises(
        InputError,
        match=rf"^a\.stl: the mesh is open: {count} edges without a neighbor in 1 openings, one "
        r"of them 1\d\d mm wide and not flat; close it, e\.g\. in MeshLab or Meshmixer$",
    ):
        read(save(mesh, tmp_path / "a.stl"))


def test_four_triangles_at_an_edge_are_closed() -> None:
    one = trimesh.creation.box(bounds=[[0, 0, 0], [1, 1, 1]])
    two = trimesh.creation.box(bounds=[[1, 1, 0], [2, 2, 1]])
    both = trimesh.util.concatenate([one, two])
    both.merge_vertices()
    assert not both.is_watertight
    assert len(open_edges(np.asarray(both.faces))) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty (0 bytes): copy it again"),
        (
            b"\0" * 80 + (9).to_bytes(4, "little"),
            "cut short: it holds 84 bytes of the 534 that its header announces; copy it again",
        ),
        (b"solid a\nendsolid a\n", "the mesh has no triangles: it is empty or a cloud of points"),
    ],
)
def test_broken_stl_files(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.stl").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a.stl")
    assert str(caught.value) == f"a.stl: {words}"


def test_a_mesh_that_does_not_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Little:
        available = 2**20

    monkeypatch.setattr(load_module.psutil, "virtual_memory", Little)
    with pytest.raises(
        InputError, match=r"^a\.stl: a mesh of 0 MiB needs about 0\.0 GiB of memory, 0\.0 GiB are f"
    ):
        read(save(ball(), tmp_path / "a.stl"))


def test_a_broken_ply_file(tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_bytes(b"hello" * 20)
    with pytest.raises(InputError, match=r"^a\.ply: not readable as a mesh: it is damaged; copy"):
        read(tmp_path / "a.ply")


def test_a_flat_mesh_has_no_volume(tmp_path: Path) -> None:
    vertices = [[0, 0, 0], [150, 0, 0], [0, 150, 0]]
    mesh = trimesh.Trimesh(vertices, [[0, 1, 2], [0, 2, 1]], process=False)
    with pytest.raises(InputError, match=r"^a\.stl: the mesh encloses nothing"):
        read(save(mesh, tmp_path / "a.stl"))
