"""The same head gives the same implant, however its voxels lie; and what may not happen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from famseg.datasets import RegionDefect, inject, phantom
from famseg.meshes import Mesh, distances_mm, surface_mesh, write_mesh
from famseg.messages import InputError
from famseg.preparation import Scan
from famseg.reconstruction import CoarseNetwork, Options, Result, load_network, reconstruct
from famseg.reconstruction._inputs import find_inputs
from famseg.volumes import Volume

sys.path.insert(0, str(Path(__file__).parents[1] / "preparation"))

from dicom_maker import Series  # found through the line above

SIZE, SPACING_MM = 64, 3.5
AFFINE = np.diag([SPACING_MM] * 3 + [1.0])
AFFINE[:3, 3] = (-111, -109, 10)
CT_MM = 2.0
Array = NDArray[np.float64]

pytestmark = pytest.mark.slow


@cache
def network() -> CoarseNetwork:
    return load_network("builtin")


@cache
def holed(size: int = SIZE, spacing_mm: float = SPACING_MM) -> NDArray[np.uint8]:
    skull = phantom(0, 0, size, spacing_mm)
    defect = RegionDefect("random_1", area_cm2=(22, 25))  # small: quick
    return inject(skull, defect, (spacing_mm,) * 3, np.random.default_rng(1))[0]


def run(array: NDArray[np.generic], affine: Array, kind: str = "mask") -> Result:
    scan = Scan(Volume(array, affine), kind)  # type: ignore[arg-type]
    return reconstruct(scan, network(), Options())


@cache
def straight() -> Result:
    return run(holed(), AFFINE)


def apart_mm(one: Mesh, other: Mesh) -> Array:
    """Distances of the vertices of each mesh from the surface of the other."""
    pairs = ((one, other), (other, one))
    return np.concatenate([distances_mm(a.vertices[::7], b) for a, b in pairs])


@pytest.mark.parametrize("codes", [pytest.param("LPS", marks=pytest.mark.nightly), "SAR"])
def test_turned_and_flipped_grids_give_the_same_mesh(codes: str) -> None:
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    array = nibabel.orientations.apply_orientation(holed(), turn)
    affine = AFFINE @ nibabel.orientations.inv_ornt_aff(turn, holed().shape)
    found = run(array, affine)
    assert apart_mm(found.implant_mesh, straight().implant_mesh).max() < 0.2
    assert found.implant.shape == array.shape
    turned = nibabel.orientations.apply_orientation(straight().implant, turn)
    assert np.count_nonzero(turned != found.implant) < 0.01 * np.count_nonzero(turned)


def test_the_same_scan_gives_the_same_result() -> None:
    again = run(holed(), AFFINE)
    for name in ("completed", "implant", "agreement"):
        assert (getattr(again, name) == getattr(straight(), name)).all()
    assert again.case == straight().case
    assert (again.implant_mesh.vertices == straight().implant_mesh.vertices).all()


def test_implant_and_bone_share_no_voxel_and_make_the_completed_skull() -> None:
    loose = holed().copy()
    loose[2:4, 2:4, 2:4] = 1  # a piece of bone far from the skull stays in the result
    for array in (holed(), loose):
        found = straight() if array is holed() else run(array, AFFINE)
        assert not (found.implant & (array > 0)).any()
        assert (found.completed == (found.implant | (array > 0))).all()


@cache
def head() -> tuple[NDArray[np.float32], Array]:
    """HU of a phantom with a hole and skin, blurred as a scanner does, on 112 voxels of 2 mm."""
    bone = holed(112, CT_MM).astype(np.float32)
    body = ndimage.binary_closing(np.pad(bone > 0, 12), iterations=11)[12:-12, 12:-12, 12:-12]
    skin = ndimage.binary_dilation(ndimage.binary_fill_holes(body), iterations=4)
    tissue = np.where(skin, 40.0, -1000.0)
    share = ndimage.gaussian_filter(bone, 0.7)
    affine = np.diag([CT_MM] * 3 + [1.0])
    affine[:3, 3] = AFFINE[:3, 3]
    return (tissue + share * (1000 - tissue)).astype(np.float32), affine


def sampled(turn: Array, spacing_mm: tuple[float, float, float]) -> tuple[NDArray[np.int16], Array]:
    """The head on a grid that is turned about its middle, with other voxels."""
    values, affine = head()
    shape = [int(np.ceil(236 / edge)) for edge in spacing_mm]
    matrix = np.eye(4)
    matrix[:3, :3] = turn * spacing_mm
    middle = affine[:3, :3] @ ((np.array(values.shape) - 1) / 2) + affine[:3, 3]
    matrix[:3, 3] = middle - matrix[:3, :3] @ ((np.array(shape) - 1) / 2) + 0.4
    to_head = np.linalg.inv(affine) @ matrix
    found = ndimage.affine_transform(
        values, to_head[:3, :3], to_head[:3, 3], tuple(shape), order=1, cval=-1000.0
    )
    return np.round(found).astype(np.int16), matrix


@cache
def of_ct() -> Result:
    return run(*sampled(np.eye(3), (2.0, 2.0, 2.0)), kind="hounsfield")


def oblique() -> Array:
    angle = np.deg2rad(10)
    about_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    return np.vstack([about_z, [0, 0, 1]])


@pytest.mark.parametrize(
    "grid", ["oblique", pytest.param("anisotropic", marks=pytest.mark.nightly)]
)
def test_other_voxels_of_the_same_head_give_the_same_implant(grid: str) -> None:
    turn, spacing = {
        "oblique": (oblique(), (2.0, 2.0, 2.0)),
        "anisotropic": (np.eye(3), (1.8, 1.8, 2.2)),
    }[grid]
    found = run(*sampled(turn, spacing), kind="hounsfield")
    apart = apart_mm(found.implant_mesh, of_ct().implant_mesh)
    assert apart.mean() < 0.4, "a fifth of a voxel of 2 mm"
    middle = found.implant_mesh.centroid_mm - of_ct().implant_mesh.centroid_mm
    assert np.abs(middle).max() < 0.5
    volumes = found.implant_mesh.volume_mm3, of_ct().implant_mesh.volume_mm3
    assert volumes[0] == pytest.approx(volumes[1], rel=0.03)


def test_a_round_trip_through_dicom_gives_the_same_implant(tmp_path: Path) -> None:
    values, affine = sampled(np.eye(3), (2.0, 2.0, 2.0))
    lps = values[::-1, ::-1].transpose(2, 1, 0).astype(np.float64)
    heights = CT_MM * np.arange(len(lps))
    Series(lps, heights, spacing_mm=CT_MM).write(tmp_path / "series")
    scan = find_inputs([tmp_path / "series"]).found[0].source.read()
    found = reconstruct(scan, network(), Options())
    # The series has its own origin: the same head, moved.
    first = np.linalg.inv(scan.volume.affine) @ np.eye(4)
    index = found.implant_mesh.vertices @ first[:3, :3].T + first[:3, 3]
    index = (np.array(values.shape[:2]) - 1 - index[:, :2], index[:, 2:])
    there = np.concatenate(index, axis=1) @ affine[:3, :3].T + affine[:3, 3]
    moved = Mesh(there, found.implant_mesh.faces)
    assert apart_mm(moved, of_ct().implant_mesh).max() < 0.2


@pytest.mark.slow
@pytest.mark.nightly
def test_a_mesh_gives_the_implant_of_its_mask(tmp_path: Path) -> None:
    skull = surface_mesh(holed(), AFFINE, smoothing_mm=2.0)
    write_mesh(tmp_path / "head.stl", skull)
    scan = find_inputs([tmp_path / "head.stl"]).found[0].source.read()
    found = reconstruct(scan, network(), Options())
    distance = np.linalg.norm(found.implant_mesh.centroid_mm - straight().implant_mesh.centroid_mm)
    assert distance < SPACING_MM


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: phantom(0, 0, SIZE), "no defect was found: the vault is whole"),
        (lambda a: a[:, :, :50], "the vault is cut off by the border of the scan"),
        (lambda a: a * 0, "the mask is all zero"),
    ],
    ids=["intact", "cut", "empty"],
)
def test_what_has_no_implant_is_refused_in_one_line(
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        run(np.ascontiguousarray(change(holed())), AFFINE)
    assert len(caught.value.faults) == 1
    assert said in caught.value.faults[0]


def test_the_gap_that_is_asked_for_is_kept() -> None:
    scan = Scan(Volume(holed(96, 2.4), np.diag([2.4] * 3 + [1.0])), "mask")
    found = reconstruct(scan, network(), Options(gap_mm=1.0))
    assert found.case["gap_mm"]["p1"] is None or found.case["gap_mm"]["p1"] >= 0.9
