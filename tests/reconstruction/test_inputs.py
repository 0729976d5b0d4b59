from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from famseg.datasets import phantom
from famseg.meshes import surface_mesh, write_mesh
from famseg.messages import InputError
from famseg.preparation import Scan, Settings
from famseg.reconstruction._inputs import check_out, find_inputs
from famseg.reconstruction._reconstruct import Options
from famseg.reconstruction._skull import read_skull
from famseg.volumes import Volume, read_volume, write_volume

sys.path.insert(0, str(Path(__file__).parents[1] / "preparation"))

from dicom_maker import PERSONAL, SPACING_MM, WATER, Series, ct, head  # found by the line above

AFFINE = np.diag([7.0, 7.0, 7.0, 1.0])
AFFINE[:3, 3] = (-110, -100, 15)


@pytest.fixture(scope="module")
def skull() -> NDArray[np.uint8]:
    mask = phantom(0, 0, 32)
    mask.setflags(write=False)
    return mask


def ct_with_skin() -> Series:
    """A CT of a phantom whose head is in skin all around, so that it has an outside."""
    values = head().copy()
    values[ndimage.binary_dilation(values > -500, iterations=3) & (values < -500)] = WATER
    return Series(values, SPACING_MM * np.arange(len(values)))


@pytest.fixture
def files(tmp_path: Path, skull: NDArray[np.uint8]) -> Path:
    """Skulls of all kinds, and what is none."""
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    for name in ("a.nii.gz", "b.nrrd", "deeper/c.mha"):
        write_volume(Volume(skull, AFFINE), folder / name)
    write_volume(Volume(skull, AFFINE), folder / "d.mhd")
    mesh = surface_mesh(skull, AFFINE, smoothing_mm=5)
    write_mesh(folder / "e.stl", mesh)
    write_mesh(folder / "f.ply", mesh, space="LPS")
    ct(16, tags=dict(PERSONAL)).write(folder / "Mustermann")
    (folder / "notes.txt").write_text("nothing")
    return folder


def test_files_of_all_kinds_are_found_and_named(files: Path) -> None:
    found = find_inputs([files]).found
    assert [(each.name, each.kind, each.ending) for each in found] == [
        ("a", "volume", ".nii.gz"),
        ("b", "volume", ".nrrd"),
        ("d", "volume", ".mha"),
        ("deeper", "volume", ".mha"),
        ("e", "mesh", ".nii.gz"),
        ("f", "mesh", ".nii.gz"),
        (found[-1].name, "dicom", ".nii.gz"),
    ]
    assert found[-1].name.startswith("series_"), "no name of a person"
    assert [each.space() for each in found] == ["LPS", "LPS", "LPS", "LPS", "RAS", "LPS", "LPS"]


def test_several_paths_keep_their_order_and_get_names_of_their_own(files: Path) -> None:
    shutil.copytree(files / "deeper", files.parent / "deeper")
    (files.parent / "deeper" / "c.mha").rename(files.parent / "deeper" / "a.mha")
    paths = [files / "b.nrrd", files.parent / "deeper" / "a.mha", files / "a.nii.gz"]
    assert [each.name for each in find_inputs(paths).found] == ["b", "a", "a_2"]


def test_each_path_that_holds_nothing_has_a_line(files: Path) -> None:
    (files.parent / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        find_inputs([files.parent / "gone.nii", files.parent / "empty"])
    assert caught.value.faults == (
        f"{files.parent / 'gone.nii'}: there is no such file or folder",
        f"{files.parent / 'empty'}: no skull to complete: looked for DICOM series and files ending "
        "in .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, .stl, .ply",
    )


def test_results_of_a_reconstruction_are_no_inputs(files: Path) -> None:
    for name in ("reconstruct.json", "deeper/case.json"):
        (files.parent / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (files.parent / "out" / name).write_text("{}")
    shutil.copy(files / "a.nii.gz", files.parent / "out" / "deeper" / "completed.nii.gz")
    shutil.copytree(files.parent / "out", files / "out")
    assert "out" not in {each.source.origin.split("/")[0] for each in find_inputs([files]).found}


def test_a_folder_of_results_must_not_hold_inputs_or_files_of_others(files: Path) -> None:
    check_out([files], files.parent / "new")
    check_out([files / "a.nii.gz"], files.parent / "new")
    with pytest.raises(InputError, match=r"overlaps with the input .*: choose a folder outside it"):
        check_out([files], files / "out")
    with pytest.raises(InputError, match="is not empty and was not written by famseg reconstruct"):
        check_out([files / "a.nii.gz"], files)
    with pytest.raises(InputError, match="is a file: give a folder"):
        check_out([files], files / "notes.txt")


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SPL", "AIR"])
def test_voxels_go_back_to_where_they_came_from(skull: NDArray[np.uint8], codes: str) -> None:
    import nibabel

    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    array = nibabel.orientations.apply_orientation(skull[:, 1:30], turn)
    affine = AFFINE @ nibabel.orientations.inv_ornt_aff(turn, skull[:, 1:30].shape)
    loose = array.copy()
    loose[0, 0, 0] = 1  # bone that is no part of the skull stays bone of the input
    found = read_skull(Scan(Volume(loose, affine), "mask"), Settings())
    assert (found.scan_bone == (loose > 0)).all()
    assert (found.to_scan(found.bone) == (array > 0)).all()
    assert found.affine[:3, :3] == pytest.approx(np.diag([7.0] * 3))
    index = np.argwhere(found.bone)[0]
    place = found.affine[:3, :3] @ index + found.affine[:3, 3]
    there = np.rint(np.linalg.inv(affine) @ [*place, 1])[:3].astype(int)
    assert array[tuple(there)]


def test_a_ct_gives_the_skull_alone(tmp_path: Path) -> None:
    ct_with_skin().write(tmp_path / "series")
    scan = find_inputs([tmp_path / "series"]).found[0].source.read()
    found = read_skull(scan, Settings())
    bone = scan.volume.array > 226
    assert scan.kind == "hounsfield"
    assert not (found.scan_bone & ~bone)[:, :, 0].any()
    assert np.count_nonzero(found.scan_bone & bone) > 0.99 * np.count_nonzero(bone)


def test_a_label_map_is_read_as_prepare_reads_it(skull: NDArray[np.uint8]) -> None:
    labels = skull.copy()
    labels[10:22, 10:22, 14:20][skull[10:22, 10:22, 14:20] == 0] = 2
    scan = Scan(Volume(labels, AFFINE), "mask", segments={1: "Skull", 2: "Brain"})
    assert (read_skull(scan, Settings()).scan_bone == (skull > 0)).all()
    with pytest.raises(InputError, match="the label of the skull is unknown"):
        read_skull(replace(scan, segments={}), Settings())
    chosen = read_skull(replace(scan, segments={}), Options(label="1").settings())
    assert (chosen.scan_bone == (skull > 0)).all()


def refusal(array: NDArray[np.generic], spacing_mm: float = 7.0) -> str:
    scan = Scan(Volume(array, np.diag([spacing_mm] * 3 + [1.0])), "mask")
    with pytest.raises(InputError) as caught:
        read_skull(scan, Settings())
    assert len(caught.value.faults) == 1
    return caught.value.faults[0]


def test_what_is_no_skull_is_refused_in_one_line(skull: NDArray[np.uint8]) -> None:
    assert refusal(np.zeros_like(skull)).startswith("the mask is all zero")
    assert "a skull more than 20 ml" in refusal(skull, spacing_mm=0.7)
    assert refusal(skull, spacing_mm=20.0).startswith("the bone measures ")
    noise = np.random.default_rng(0).random(skull.shape) < 0.55
    assert "ml of bone in" in refusal(noise.astype(np.uint8))


@pytest.mark.parametrize("deviation_hu", [350.0, 450.0])
def test_a_ct_of_noise_is_not_said_to_be_cut_off(deviation_hu: float) -> None:
    noise = np.random.default_rng(0).normal(0, deviation_hu, (60, 60, 60)).astype(np.int16)
    scan = Scan(Volume(noise, np.diag([3.0, 3.0, 3.0, 1.0])), "hounsfield")
    with pytest.raises(InputError, match="no skull is recognizable: bone lies all over the scan"):
        read_skull(scan, Settings())


def test_a_vault_that_the_scan_opens_is_refused(skull: NDArray[np.uint8]) -> None:
    assert refusal(skull[:, :, :23]) == (
        "the vault is cut off by the border of the scan: bone that is missing there is not a "
        "defect; give "
        "a scan of the whole vault"
    )


def test_real_heads_are_taken_and_cut_ones_refused(real_data: Path) -> None:
    folder = real_data / "skulls"
    if not folder.is_dir():
        pytest.skip(f"no skulls in {real_data}")
    for path in sorted((folder / "heads128").glob("*.nii.gz"))[:3]:
        scan = Scan(read_volume(path), "mask")
        assert np.count_nonzero(read_skull(scan, Settings()).mask)
    for path in sorted((folder / "truncated64").glob("*.nii.gz"))[:3]:
        with pytest.raises(InputError, match="the vault is cut off"):
            read_skull(Scan(read_volume(path), "mask"), Settings())
