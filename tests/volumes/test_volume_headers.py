"""Headers found in practice: NIfTI-2, pairs, two matrices, sheared axes, units."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from famseg.messages import InputError
from famseg.volumes import Volume, forms_disagree, nifti_header, read_volume, write_volume

ARRAY = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
AFFINE = np.array([[2.0, 0, 0, -3], [0, 2.5, 0, -4], [0, 0, 3, 5], [0, 0, 0, 1]])
MIRRORED = np.diag([-1.0, 1, 1, 1]) @ AFFINE
SHEARED = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def same(volume: Volume, affine: np.ndarray = AFFINE) -> None:
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_2(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"head{ending}"
    nibabel.save(nibabel.Nifti2Image(ARRAY, AFFINE), path)
    same(read_volume(path))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_a_pair(kind: type, tmp_path: Path) -> None:
    nibabel.save(kind(ARRAY, AFFINE), tmp_path / "head.img")
    same(read_volume(tmp_path / "head.hdr"))
    data = tmp_path / "head.img"
    data.write_bytes(data.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"head\.hdr: cut short: it contains 230 bytes of the 240"):
        read_volume(tmp_path / "head.hdr")
    data.unlink()
    with pytest.raises(InputError, match=r"the file with its voxels \(\.img\) is missing"):
        read_volume(tmp_path / "head.hdr")


def test_a_pair_whose_voxels_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    nibabel.save(nibabel.Nifti1Pair(ARRAY, AFFINE), tmp_path / "head.img")
    (tmp_path / "head.hdr").rename(tmp_path / "a" / "head.hdr")
    (tmp_path / "a" / "head.img").symlink_to(tmp_path / "head.img")
    with pytest.raises(InputError, match=r"head\.img is a symbolic link to another folder"):
        read_volume(tmp_path / "a" / "head.hdr")


def test_analyze_is_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(ARRAY, AFFINE), tmp_path / "head.img")
    with pytest.raises(InputError, match="an Analyze file, which does not tell left from right"):
        read_volume(tmp_path / "head.hdr")


def test_pairs_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in one of \.nii, "):
        write_volume(Volume(ARRAY, AFFINE), tmp_path / "head.hdr")


@pytest.mark.parametrize("qform_code", [1, 2])
def test_the_sform_counts_where_two_matrices_disagree(qform_code: int, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ARRAY, AFFINE)
    image.set_qform(AFFINE, qform_code)
    image.set_sform(MIRRORED, 2)
    nibabel.save(image, tmp_path / "head.nii")
    same(read_volume(tmp_path / "head.nii"), MIRRORED)


def sheared(path: Path, *, qform: bool = False) -> Path:
    nibabel.save(nibabel.Nifti1Image(ARRAY, SHEARED), path)
    if not qform:
        content = bytearray(path.read_bytes())
        struct.pack_into("<h", content, 252, 0)  # qform_code
        path.write_bytes(content)
    return path


def test_sheared_axes_are_refused_unless_they_are_kept(tmp_path: Path) -> None:
    path = sheared(tmp_path / "head.nii")
    with pytest.raises(InputError, match="singular or not at right angles"):
        read_volume(path)
    same(read_volume(path, sheared="keep"), SHEARED)


@pytest.mark.parametrize("sform_code", [0, 1])
@pytest.mark.parametrize("qfac", [0.0, 0.5])
def test_a_sign_of_the_third_axis_that_is_not_one_is_taken_as_plus(
    qfac: float, sform_code: int, tmp_path: Path
) -> None:
    image = nibabel.Nifti1Image(ARRAY, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, sform_code)
    nibabel.save(image, tmp_path / "head.nii")
    content = bytearray((tmp_path / "head.nii").read_bytes())
    struct.pack_into("<f", content, 76, qfac)  # pixdim[0]
    (tmp_path / "head.nii").write_bytes(content)
    same(read_volume(tmp_path / "head.nii"))
    assert not forms_disagree(nifti_header(tmp_path / "head.nii"))


def with_impossible_qform(path: Path, *, sform: bool) -> Path:
    """Write a file whose qform has a quaternion that is longer than 1."""
    image = nibabel.Nifti1Image(ARRAY, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1 if sform else 0)
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<3f", content, 256, 352.0, 0.0, 0.0)  # quatern_b, quatern_c, quatern_d
    path.write_bytes(content)
    return path


def test_an_impossible_qform_does_not_count_beside_an_sform(tmp_path: Path) -> None:
    path = with_impossible_qform(tmp_path / "head.nii", sform=True)
    same(read_volume(path))
    assert not forms_disagree(nifti_header(path))


def test_without_a_usable_matrix_left_and_right_are_not_guessed(tmp_path: Path) -> None:
    path = with_impossible_qform(tmp_path / "head.nii", sform=False)
    with pytest.raises(InputError, match=r"is damaged .*: left and right are not known"):
        read_volume(path)


def test_an_sform_without_extent_is_not_taken(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ARRAY, AFFINE)
    image.set_qform(AFFINE, 1)
    nibabel.save(image, tmp_path / "head.nii")
    content = bytearray((tmp_path / "head.nii").read_bytes())
    struct.pack_into("<12f", content, 280, *[0.0] * 12)  # srow_x, srow_y, srow_z
    (tmp_path / "head.nii").write_bytes(content)
    same(read_volume(tmp_path / "head.nii"))


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1000), ("meter", 0.001)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_units_of_nifti(unit: str, factor: float, kind: type, tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[:3] *= factor
    image = kind(ARRAY, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "head.nii")
    same(read_volume(tmp_path / "head.nii"))


def nrrd(path: Path, unit: str, factor: float) -> Path:
    steps = " ".join(f"({','.join(f'{x * factor:g}' for x in AFFINE[:3, i])})" for i in range(3))
    origin = ",".join(f"{x * factor:g}" for x in AFFINE[:3, 3])
    path.write_bytes(
        f"NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 4 5 6\n"
        f"space directions: {steps}\nspace origin: ({origin})\n{unit}endian: little\n"
        f"encoding: raw\n\n".encode()
        + ARRAY.tobytes("F")
    )
    return path


@pytest.mark.parametrize(
    ("unit", "factor"), [("um", 1e3), ("microns", 1e3), ("cm", 0.1), ("m", 1e-3), ("mm", 1)]
)
def test_units_of_nrrd(unit: str, factor: float, tmp_path: Path) -> None:
    units = f'space units: "{unit}" "{unit}" "{unit}"\n'
    same(read_volume(nrrd(tmp_path / "head.nrrd", units, factor)))


def test_several_units_are_refused(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "head.nrrd", 'space units: "mm" "mm" "cm"\n', 1)
    with pytest.raises(InputError, match='its axes have several units \\("mm" "mm" "cm"\\)'):
        read_volume(path)


def test_units_of_meta_image(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(ARRAY.transpose(2, 1, 0))
    image.SetSpacing([2000.0, 2500.0, 3000.0])
    SimpleITK.WriteImage(image, str(tmp_path / "head.mha"))
    content = (tmp_path / "head.mha").read_bytes()
    marked = content.replace(b"NDims = 3\n", b"NDims = 3\nDistanceUnits = um\n")
    (tmp_path / "head.mha").write_bytes(marked)
    assert read_volume(tmp_path / "head.mha").spacing_mm == pytest.approx((2.0, 2.5, 3.0))
