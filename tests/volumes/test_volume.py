from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from bounded import cost

from famseg.messages import InputError
from famseg.volumes import Volume, read_volume, write_volume
from famseg.volumes._volume import VOLUME_SUFFIXES, volume_suffix

FORMATS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


def oblique(spacing: tuple[float, float, float] = (0.5, 0.75, 2.0)) -> np.ndarray:
    a, b = np.deg2rad([20, -35])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * spacing
    affine[:3, 3] = (-12.5, 30.0, 7.25)
    return affine


def read_fault(path: Path, **options: int) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path, **options)
    assert len(caught.value.faults) == 1
    assert "\n" not in str(caught.value)
    start, message = str(caught.value).split(": ", 1)
    assert start == str(path)
    return message


def noise(size: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (size,) * 3).astype(np.uint8)


def patched(path: Path, offset: int, layout: str, *values: float) -> Path:
    """A small NIfTI file with modified bytes in its header."""
    nibabel.Nifti1Image(noise(6), np.diag([2.0, 2.0, 3.0, 1.0])).to_filename(path)
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_volume_survives_the_round_trip(suffix: str, dtype: type, tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 99, (5, 6, 7)).astype(dtype)
    path = tmp_path / f"head.v1{suffix}"
    write_volume(Volume(array, oblique()), path)
    volume = read_volume(path)
    assert volume.array.dtype == dtype
    assert np.array_equal(volume.array, array)
    assert volume.affine == pytest.approx(oblique(), abs=1e-4)
    assert volume.spacing_mm == pytest.approx((0.5, 0.75, 2.0), abs=1e-5)
    assert volume.path == path


def test_the_affine_is_the_one_that_nibabel_reads(tmp_path: Path) -> None:
    nibabel.Nifti1Image(noise(5), oblique()).to_filename(tmp_path / "a.nii.gz")
    assert read_volume(tmp_path / "a.nii.gz").affine == pytest.approx(oblique(), abs=1e-5)


def test_lps_files_come_out_in_ras(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(noise(5))
    image.SetOrigin((10.0, 20.0, 30.0))
    image.SetSpacing((1.0, 2.0, 3.0))
    SimpleITK.WriteImage(image, str(tmp_path / "a.nrrd"))
    affine = read_volume(tmp_path / "a.nrrd").affine
    assert affine.tolist() == [[-1, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]]


def test_axes_are_x_y_z(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), dtype=np.uint8)
    array[3, 1, 2] = 1
    nibabel.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / "a.nii")
    assert np.argwhere(read_volume(tmp_path / "a.nii").array).tolist() == [[3, 1, 2]]


def test_a_boolean_mask_is_written_as_numbers(tmp_path: Path) -> None:
    write_volume(Volume(noise(4) > 0, np.eye(4)), tmp_path / "a.mha")
    assert np.array_equal(read_volume(tmp_path / "a.mha").array, noise(4))


def test_a_rescaled_nifti_is_read_in_its_units(tmp_path: Path) -> None:
    path = patched(tmp_path / "a.nii", 112, "<ff", 0.5, 0.0)
    assert set(np.unique(read_volume(path).array)) == {0.0, 0.5}


def test_suffixes() -> None:
    assert volume_suffix(Path("a.NII.GZ")) == ".nii.gz"
    assert volume_suffix(Path(".nii")) is None
    assert volume_suffix(Path("a.dcm")) is None
    assert set(FORMATS) == set(VOLUME_SUFFIXES)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert read_fault(tmp_path / "a.nii") == "there is no such file"
    (tmp_path / "b.nii").mkdir()
    assert read_fault(tmp_path / "b.nii") == "is a folder, not a file"


def test_a_wrong_ending(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert read_fault(tmp_path / "a.txt") == (
        "not a volume by its name: it must end in one of .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd"
    )


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_empty_file(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").touch()
    assert read_fault(tmp_path / f"a{suffix}") == "the file is empty (0 bytes): copy it again"


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        (".nii", "its content is not NIfTI, though its name says so"),
        (".nii.gz", "not a gzip file, though its name says so"),
        (".nrrd", "its content does not have the format of its file name"),
        (".nhdr", "its content does not have the format of its file name"),
        (".mha", "its content does not have the format of its file name"),
        (".mhd", "its content does not have the format of its file name"),
    ],
)
def test_a_text_file_with_the_name_of_a_volume(suffix: str, message: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_text("hello " * 99)
    assert read_fault(tmp_path / f"a{suffix}") == message


def test_text_in_a_gzip_file(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"hello" * 99))
    assert read_fault(tmp_path / "a.nii.gz") == "its content is not NIfTI, though its name says so"


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def test_a_truncated_compressed_nifti(save: Callable[..., Path]) -> None:
    # ITK reads it without an error and puts zeros where voxels are missing.
    path = cut(save(noise(), "a.nii.gz"))
    assert read_fault(path) == "the file is cut short or damaged: copy it again"


def test_a_damaged_compressed_nifti(save: Callable[..., Path]) -> None:
    path = save(noise(), "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert "damaged" in read_fault(path) or "not a gzip file" in read_fault(path)


def test_a_truncated_nifti(save: Callable[..., Path]) -> None:
    path = save(noise(), "a.nii")
    size = path.stat().st_size
    assert read_fault(cut(path)) == (
        f"cut short: it contains {size // 2} bytes of the {size} that its header announces; "
        "copy it again"
    )


def test_a_compressed_nifti_of_a_truncated_one(save: Callable[..., Path]) -> None:
    content = save(noise(), "a.nii").read_bytes()[:5000]
    packed = save(noise(), "b.nii.gz")
    packed.write_bytes(gzip.compress(content))
    assert read_fault(packed).startswith("cut short: it contains 5000 bytes of the ")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_other_truncated_files(
    suffix: str, packed: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise()), str(path), packed)
    assert read_fault(cut(path)) == (
        "the header is readable, the voxels are not: the file is cut short or damaged"
    )
    assert capfd.readouterr().err == "", "ITK prints its own words past Python"


def test_missing_data_beside_a_header(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(noise())
    SimpleITK.WriteImage(image, str(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").unlink()
    assert read_fault(tmp_path / "a.mhd") == (
        "the header is readable, the voxels are not: the file is cut short or damaged, or its "
        "data file is missing"
    )
    SimpleITK.WriteImage(image, str(tmp_path / "b.nhdr"))
    (tmp_path / "b.raw").unlink()
    message = read_fault(tmp_path / "b.nhdr")
    assert message.startswith("not readable as a volume: ")
    assert "b.raw" in message


def test_two_and_four_dimensions(tmp_path: Path) -> None:
    flat, slice_, series = (tmp_path / f"{n}.nii" for n in "abc")
    nibabel.Nifti1Image(noise(6)[0], np.eye(4)).to_filename(flat)
    nibabel.Nifti1Image(noise(6)[..., :1], np.eye(4)).to_filename(slice_)
    nibabel.Nifti1Image(np.stack([noise(6)] * 2, axis=-1), np.eye(4)).to_filename(series)
    assert read_fault(flat) == "6x6 voxels is not 3D: give a 3D volume"
    assert read_fault(slice_) == "6x6x1 voxels is not 3D: give a 3D volume"
    assert read_fault(series) == "6x6x6x2 voxels is 4D: give one 3D volume per file"


def test_color(tmp_path: Path) -> None:
    image = SimpleITK.Compose([SimpleITK.GetImageFromArray(noise(6))] * 3)
    SimpleITK.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert read_fault(tmp_path / "a.nrrd") == (
        "its voxels are of type 'vector of 8-bit unsigned integer': a mask has one value per voxel"
    )


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0.0"), (-2.0, "-2.0"), (np.nan, "nan")])
def test_nifti_spacing(value: float, shown: str, tmp_path: Path) -> None:
    # ITK silently turns 0 and NaN into 1 mm.
    path = patched(tmp_path / "a.nii", 80, "<f", value)
    assert (
        read_fault(path) == f"spacing [{shown}, 2.0, 3.0] mm: each must be above 0; fix the header"
    )


@pytest.mark.parametrize("value", ["0", "-1"])
def test_metaimage_spacing(value: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mhd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise(6)), str(path))
    path.write_text(
        path.read_text().replace("ElementSpacing = 1 1 1", f"ElementSpacing = {value} 1 1")
    )
    assert read_fault(path).startswith(
        f"spacing [{float(value)}, 1.0, 1.0] mm: each must be above 0"
    )


def test_singular_directions(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(noise(6))
    meta, nrrd = tmp_path / "a.mhd", tmp_path / "a.nhdr"
    SimpleITK.WriteImage(image, str(meta))
    text = meta.read_text()
    meta.write_text(text.replace("= 1 0 0 0 1 0 0 0 1", "= 1 0 0 1 0 0 0 0 1"))
    assert read_fault(meta) == "the header's direction is singular: two axes point the same way"
    SimpleITK.WriteImage(image, str(nrrd))
    nrrd.write_text(nrrd.read_text().replace("(0,1,0)", "(1,0,0)"))
    assert read_fault(nrrd) == "the header's direction is singular: two axes point the same way"


@pytest.mark.parametrize(
    "rows",
    [(2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 3, 0), (0,) * 12, (2, 1, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0)],
    ids=["singular", "zero", "sheared"],
)
def test_an_affine_that_is_no_rotation(rows: tuple[float, ...], tmp_path: Path) -> None:
    path = patched(tmp_path / "a.nii", 280, "<12f", *rows)
    assert read_fault(path) == (
        "the header's axes are singular or not at right angles: resample it, or fix its affine"
    )


def test_an_affine_that_is_no_number(tmp_path: Path) -> None:
    path = patched(tmp_path / "a.nii", 280, "<f", np.nan)
    assert read_fault(path) == "the header's origin or direction is not a number (sform)"


def test_a_nifti_without_orientation(tmp_path: Path) -> None:
    path = patched(tmp_path / "a.nii", 252, "<hh", 0, 0)
    assert read_fault(path) == (
        "no orientation: sform_code and qform_code are 0, so left and right are not known; set "
        "one of them"
    )


def test_headers_that_announce_too_much(tmp_path: Path) -> None:
    path = patched(tmp_path / "a.nii", 42, "<hhh", 30000, 30000, 30000)
    assert read_fault(path) == (
        "the header announces 30000x30000x30000 voxels, more than 1073741824: it is damaged, or "
        "the volume must be resampled first"
    )
    meta = tmp_path / "a.mhd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise(6)), str(meta))
    meta.write_text(meta.read_text().replace("DimSize = 6 6 6", "DimSize = 40000 40000 40000"))
    assert read_fault(meta).startswith("the header announces 40000x40000x40000 voxels, more than")


def test_the_bound_is_an_option(save: Callable[..., Path]) -> None:
    path = save(noise(6))
    assert read_volume(path, max_voxels=216).array.shape == (6, 6, 6)
    assert read_fault(path, max_voxels=215).startswith("the header announces 6x6x6 voxels")


def test_a_gzip_bomb_is_not_unpacked_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    small = patched(tmp_path / "a.nii", 42, "<h", 6).read_bytes()
    path.write_bytes(gzip.compress(small + bytes(40_000_000), compresslevel=1))
    assert read_fault(path) == (
        f"unpacks to more than the {len(small)} bytes that its header announces: not a volume"
    )


def test_damaged_nifti_headers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert read_fault(patched(tmp_path / "a.nii", 42, "<h", -5)).startswith(
        "the header is damaged: dim [3, -5, 6, 6, "
    )
    assert read_fault(patched(tmp_path / "b.nii", 70, "<h", 9999)) == "unknown datatype 9999"
    assert capfd.readouterr().err == ""


def test_writing_faults(tmp_path: Path) -> None:
    volume = Volume(noise(4), np.eye(4))
    with pytest.raises(InputError, match=r"a\.png: must end in one of \.nii, "):
        write_volume(volume, tmp_path / "a.png")
    with pytest.raises(
        InputError,
        match=r"a\.nii: cannot be written: check that its folder "
        "exists",
    ):
        write_volume(volume, tmp_path / "nowhere" / "a.nii")
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    with pytest.raises(InputError, match=r"the affine is sheared: resample the volume before"):
        write_volume(Volume(noise(4), sheared), tmp_path / "a.nii")


def test_real_heads_read_as_nibabel_reads_them(real_data: Path) -> None:
    files = sorted((real_data / "skulls" / "native").glob("*.nii.gz"))
    assert files
    path = min(files, key=lambda f: f.stat().st_size)
    volume, image = read_volume(path), nibabel.load(path)
    assert volume.affine == pytest.approx(image.affine, abs=1e-4)
    assert np.array_equal(volume.array, np.asarray(image.dataobj))


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "\udcff.nii"
    path.write_bytes(b"x")
    message = r"\\udcff\.nii: its name or that of a folder is not UTF-8 text: rename it$"
    with pytest.raises(InputError, match=message):
        read_volume(path)


def test_voxels_that_shrank_too_much(tmp_path: Path) -> None:
    header = bytearray(patched(tmp_path / "a.nii", 42, "<hhh", 1024, 1024, 1024).read_bytes()[:352])
    header[70:74] = struct.pack("<hh", 64, 64)  # in double precision
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(header)))
    found = cost(lambda: read_volume(tmp_path / "a.nii.gz"))
    assert found.fault is not None
    assert "voxels unpack to 8589934944 bytes, 500 times" in found.fault or "GiB" in found.fault
    assert found.mib < 50
