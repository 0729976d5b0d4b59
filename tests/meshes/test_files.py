from __future__ import annotations

import gzip
import re
import struct
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh

from famseg.meshes import Mesh, read_mesh, surface_mesh, write_mesh
from famseg.messages import InputError

CORE = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    """A solid without any symmetry, off the origin."""
    mask = np.zeros((12, 10, 8), dtype=bool)
    mask[2:10, 2:8, 2:6] = mask[2:5, 2:4, 6:8] = True
    affine = np.diag([-0.7, 0.8, 1.5, 1.0])
    affine[:3, 3] = [40.0, -30.0, 20.0]
    return surface_mesh(mask, affine)


@pytest.mark.parametrize("name", ["a.stl", "a.ply"])
@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_a_mesh_comes_back_from_its_file(name: str, space: str, mesh: Mesh, tmp_path: Path) -> None:
    write_mesh(tmp_path / name, mesh, space=space)
    back = read_mesh(tmp_path / name)
    assert len(back.faces) == len(mesh.faces)
    assert back.centroid_mm == pytest.approx(mesh.centroid_mm, abs=1e-4)
    assert back.volume_mm3 == pytest.approx(mesh.volume_mm3, rel=1e-4)
    seen = trimesh.load_mesh(tmp_path / name)  # another reader: coordinates as written
    turn = [1, 1, 1] if space == "RAS" else [-1, -1, 1]
    assert seen.bounds[:, 2] == pytest.approx(mesh.bounds_mm[:, 2], abs=1e-4)
    assert seen.centroid * turn == pytest.approx(trimesh.Trimesh(*pair(mesh)).centroid, abs=1e-3)
    assert seen.is_watertight
    assert seen.volume > 0


def pair(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    return np.array(mesh.vertices), np.array(mesh.faces)


@pytest.mark.parametrize("name", ["a.stl", "a.ply", "a.3mf", "a.mz3"])
def test_equal_meshes_give_equal_bytes(name: str, mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_mesh(tmp_path / name, mesh)
    write_mesh(tmp_path / "other" / name, {"mesh": Mesh(mesh.vertices, mesh.faces)})
    assert (tmp_path / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_the_parts_of_a_3mf_file(mesh: Mesh, tmp_path: Path) -> None:
    lid = Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    write_mesh(tmp_path / "a.3mf", {"implant": mesh, 'skull <&"1">': lid})
    with zipfile.ZipFile(tmp_path / "a.3mf") as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        types = ElementTree.fromstring(archive.read("[Content_Types].xml"))  # noqa: S314 - our own
        relations = ElementTree.fromstring(archive.read("_rels/.rels"))  # noqa: S314 - our own
        model = ElementTree.fromstring(archive.read("3D/3dmodel.model"))  # noqa: S314 - our own
    assert names[0] == "[Content_Types].xml"
    assert {each.get("Extension") for each in types} == {"rels", "model"}
    (relation,) = relations
    assert relation.get("Target") == "/3D/3dmodel.model"
    assert relation.get("Type") == "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
    assert (model.tag, model.get("unit")) == (f"{CORE}model", "millimeter")
    objects = model.findall(f"{CORE}resources/{CORE}object")
    assert [each.get("name") for each in objects] == ["implant", 'skull <&"1">']
    assert [each.get("type") for each in objects] == ["model", "surface"]
    items = model.findall(f"{CORE}build/{CORE}item")
    assert [each.get("objectid") for each in items] == [each.get("id") for each in objects]
    first = objects[0].find(f"{CORE}mesh")
    points = [[float(v.get(k)) for k in "xyz"] for v in first.find(f"{CORE}vertices")]
    faces = [[int(t.get(k)) for k in ("v1", "v2", "v3")] for t in first.find(f"{CORE}triangles")]
    assert np.abs(np.array(points) - mesh.vertices).max() <= 0.5001e-4
    assert faces == mesh.faces.tolist()


def test_the_bytes_of_an_mz3_file(mesh: Mesh, tmp_path: Path) -> None:
    write_mesh(tmp_path / "a.mz3", mesh)
    content = gzip.decompress((tmp_path / "a.mz3").read_bytes())
    magic, attributes, faces, vertices, skip = struct.unpack("<HHIII", content[:16])
    assert (magic, attributes, skip) == (23117, 3, 0)
    assert (faces, vertices) == (len(mesh.faces), len(mesh.vertices))
    assert np.array_equal(np.frombuffer(content, "<i4", 3 * faces, 16).reshape(-1, 3), mesh.faces)
    points = np.frombuffer(content, "<f4", offset=16 + 12 * faces).reshape(-1, 3)
    assert points == pytest.approx(mesh.vertices, abs=1e-5)


def test_parts_become_one_surface(mesh: Mesh, tmp_path: Path) -> None:
    far = Mesh(mesh.vertices + 100, mesh.faces)
    write_mesh(tmp_path / "a.stl", {"one": mesh, "two": far})
    assert read_mesh(tmp_path / "a.stl").volume_mm3 == pytest.approx(2 * mesh.volume_mm3, rel=1e-4)


def test_text_files_and_an_open_or_inside_out_mesh_are_read(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=20.0)
    ball.invert()
    ball.update_faces(np.arange(len(ball.faces)) > 0)  # a triangle is missing
    (tmp_path / "a.stl").write_text(ball.export(file_type="stl_ascii"))
    (tmp_path / "a.ply").write_bytes(ball.export(file_type="ply", encoding="ascii"))
    for name in ("a.stl", "a.ply"):
        mesh = read_mesh(tmp_path / name)
        assert mesh.is_watertight
        assert mesh.volume_mm3 == pytest.approx(abs(ball.convex_hull.volume), rel=1e-3)


def test_what_cannot_be_written(mesh: Mesh, tmp_path: Path) -> None:
    cases = {
        ("a.obj", "mesh"): "a.obj: meshes are written as .stl, .ply, .3mf, .mz3: choose one",
        ("a.3mf", "bad\0name"): "'bad\\x00name' cannot be the name of a part",
    }
    for (name, part), words in cases.items():
        with pytest.raises(ValueError, match=re.escape(words)):
            write_mesh(tmp_path / name, {part: mesh})
    with pytest.raises(ValueError, match=r"a\.stl: nothing to write: mesh is empty"):
        write_mesh(tmp_path / "a.stl", Mesh(np.zeros((0, 3)), np.zeros((0, 3))))
    with pytest.raises(ValueError, match="MZ3 files are in RAS"):
        write_mesh(tmp_path / "a.mz3", mesh, space="LPS")
    assert not list(tmp_path.iterdir())


def moebius() -> trimesh.Trimesh:
    """A closed surface with one flipped triangle."""
    ball = trimesh.creation.icosphere(subdivisions=1, radius=20.0)
    ball.faces[0] = ball.faces[0][::-1]
    return ball


STL_HEAD = bytes(80)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.obj", b"", "not a mesh that can be read: .stl and .ply can"),
        ("a.stl", None, "no such file"),
        ("a.stl", STL_HEAD + struct.pack("<I", 2**32 - 1) + bytes(100), "cut short: it holds 184"),
        (
            "a.stl",
            STL_HEAD + struct.pack("<I12fH", 1, 0, 0, 0, *[float("nan")] * 9, 0),
            "the mesh has ",
        ),
        (
            "a.ply",
            b"ply\nformat binary_little_endian 1.0\nelement vertex 1000000000000\n"
            b"property float x\nproperty float y\nproperty float z\nend_header\n",
            "not readable as a mesh: it is damaged",
        ),
        (
            "a.stl",
            moebius().export(file_type="stl"),
            "the mesh is not the surface of a solid: an edge does not have exactly one triangle",
        ),
    ],
)
def test_hostile_files(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_mesh(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {words}")
