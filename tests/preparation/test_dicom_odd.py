"""Series as labs have them: tags that are wrong, files that do not belong, odd names."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pydicom
import pytest
from dicom_maker import SIZE, SPACING_MM, Series, ct, head, write_report
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage, generate_uid

from famseg.messages import InputError
from famseg.preparation import Scan, Settings, find_sources, prepare_scan
from famseg.preparation.dicom._scale import offset_of

STRAIGHT = SPACING_MM * np.arange(SIZE)
SMALL = Settings(size=64, spacing_mm=3.5)


def scan(folder: Path) -> Scan:
    found = find_sources(folder)
    assert found.refused == ()
    (source,) = found.sources
    return source.read()


def lps(result: Scan) -> np.ndarray:
    return result.volume.array.transpose(2, 1, 0)


def stored_unsigned(offset: int) -> Callable[[int, pydicom.Dataset], None]:
    """Store HU plus an offset without sign, with an intercept of 0."""

    def edit(i: int, data: pydicom.Dataset) -> None:
        data.PixelRepresentation, data.RescaleIntercept = 0, 0
        data.PixelData = (head()[i] + offset).astype(np.uint16).tobytes()

    return edit


@pytest.mark.parametrize("offset", [1000, 1024])
def test_an_offset_that_the_header_conceals_is_found(offset: int, tmp_path: Path) -> None:
    result = scan(ct(edit=stored_unsigned(offset)).write(tmp_path / "a"))
    assert result.kind == "hounsfield"
    np.testing.assert_array_equal(lps(result), head())
    assert result.notes == (
        f"The headers promise CT numbers, but there is no air below -500 HU: values are {offset} "
        f"too high, as some cone-beam scanners store them; {offset} was subtracted.",
    )


def test_an_offset_is_found_beside_padding(tmp_path: Path) -> None:
    """Outside its circle the scanner writes what becomes -1024: that is not air."""

    def edit(i: int, data: pydicom.Dataset) -> None:
        values = head()[i] + 1024
        values[:10] = -3000
        data.RescaleIntercept = 0
        data.PixelData = values.astype(np.int16).tobytes()

    result = scan(ct(edit=edit).write(tmp_path / "a"))
    np.testing.assert_array_equal(lps(result)[:, 10:], head()[:, 10:])
    assert (lps(result)[:, :10] == -1024).all()


def test_values_without_air_and_without_peaks_are_intensities(tmp_path: Path) -> None:
    def edit(i: int, data: pydicom.Dataset) -> None:
        data.RescaleIntercept = 0
        data.PixelData = ((head()[i] + 1000) / 4).astype(np.int16).tobytes()

    result = scan(ct(edit=edit).write(tmp_path / "a"))
    assert result.kind == "intensity"
    assert result.notes == (
        "The headers promise CT numbers, but there is no air below -500 HU: values are taken as "
        "intensities without a unit.",
    )
    prepared = prepare_scan(result, SMALL)
    reference = prepare_scan(scan(ct().write(tmp_path / "b")), SMALL)
    np.testing.assert_array_equal(prepared.skull.array, reference.skull.array)


def test_a_scan_in_hu_keeps_its_values_where_air_is_clipped(tmp_path: Path) -> None:
    values = np.maximum(head(), -1024) - 24 * (head() == -1000)
    result = scan(Series(values, STRAIGHT).write(tmp_path / "a"))
    assert (result.kind, result.notes) == ("hounsfield", ())


def test_an_offset_is_not_seen_in_noise() -> None:
    rng = np.random.default_rng(0)
    assert offset_of(rng.integers(0, 200, 10_000).astype(np.int16)) is None
    assert offset_of(np.zeros(0, np.int16)) is None


@pytest.mark.parametrize("unsigned", [False, True])
def test_hu_do_not_depend_on_how_they_are_shown(unsigned: bool, tmp_path: Path) -> None:
    def edit(i: int, data: pydicom.Dataset) -> None:
        data.PhotometricInterpretation = "MONOCHROME1"
        if unsigned:
            data.PixelRepresentation = 0
            data.PixelData = (head()[i] + 1024).astype(np.uint16).tobytes()

    np.testing.assert_array_equal(lps(scan(ct(edit=edit).write(tmp_path / "a"))), head())


def shell(heights_mm: np.ndarray) -> Series:
    """Slices of a hollow ball of bone with soft tissue in and around it, walls of 14 mm."""
    across = (np.arange(SIZE) - 31.5) * SPACING_MM
    z, y, x = np.meshgrid(heights_mm - 110, across, across, indexing="ij")
    distance = np.sqrt(x**2 + y**2 + z**2)
    values = np.where(distance < 96, 40.0, -1000.0)
    values[(distance < 90) & (distance > 76)] = 1000
    return Series(values, list(heights_mm))


@pytest.mark.parametrize("thick_mm", [6.3, 9.1])
def test_uneven_gaps_leave_the_volume_of_bone(thick_mm: float, tmp_path: Path) -> None:
    """Bone found by a low threshold must not grow into gaps between slices (by 15 % here)."""
    thin = np.arange(0, 110, 3.5)
    heights = np.r_[thin, np.arange(thin[-1] + thick_mm, 220, thick_mm)]
    volumes = []
    for name, places in (("even", np.arange(0, 220, 3.5)), ("uneven", heights)):
        result = scan(shell(places).write(tmp_path / name))
        voxel_ml = np.prod(result.volume.spacing_mm) / 1000
        volumes.append(np.count_nonzero(result.volume.array > 226) * voxel_ml)
    assert volumes[1] == pytest.approx(volumes[0], rel=0.03)


def write_frames(file: Path, **tags: object) -> Path:
    """Write all slices into one file without groups for its frames, as cone-beam scanners do."""
    data = ct().headers()[0]
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.NumberOfFrames, data.SpacingBetweenSlices = SIZE, SPACING_MM
    data.PixelData = (head() + 1024).astype(np.int16).tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    file.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(file, enforce_file_format=True)
    return file.parent


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"SpacingBetweenSlices": None, "SliceThickness": SPACING_MM},
        {"SpacingBetweenSlices": None, "GridFrameOffsetVector": list(10 + STRAIGHT)},
        {"ImageOrientationPatient": None, "ImagePositionPatient": None},
    ],
)
def test_frames_without_groups(tags: dict[str, object], tmp_path: Path) -> None:
    result = scan(write_frames(tmp_path / "a" / "cbct.dcm", **tags))
    np.testing.assert_array_equal(lps(result), head())
    assert result.volume.spacing_mm == pytest.approx((SPACING_MM,) * 3)
    (note,) = result.notes
    assert note.startswith("The frames of the file have no positions of their own")
    assert ("axial" in note) == ("ImageOrientationPatient" in tags)


def test_frames_without_a_distance_are_refused(tmp_path: Path) -> None:
    found = find_sources(write_frames(tmp_path / "a" / "cbct.dcm", SpacingBetweenSlices=None))
    assert found.refused[0].reason == (
        "1 of 1 files: 64 frames in one file without a position for each, and no distance between "
        "them; export the series again"
    )


@pytest.mark.parametrize("name", ["I{}.img", "{}.raw", "{}.CT", "I{}"])
def test_names_as_scanners_give_them(name: str, tmp_path: Path) -> None:
    folder = ct().write(tmp_path / "a")
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / name.format(number))
    np.testing.assert_array_equal(lps(scan(folder)), head())


def test_screenshots_and_reports_in_a_series_are_left_out(tmp_path: Path) -> None:
    series = ct()
    folder = series.write(tmp_path / "a")
    screenshot = series.headers()[0]
    screenshot.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    screenshot.Rows = screenshot.Columns = 16
    screenshot.PixelData = bytes(512)
    del screenshot.ImagePositionPatient, screenshot.PixelSpacing
    screenshot.save_as(folder / "S1.dcm", enforce_file_format=True)
    screenshot.ImageType = ["ORIGINAL", "PRIMARY"]
    screenshot.SOPClassUID = SecondaryCaptureImageStorage
    screenshot.save_as(folder / "S2.dcm", enforce_file_format=True)
    write_report(folder / "dose.dcm")
    report = pydicom.dcmread(folder / "dose.dcm")
    report.SeriesInstanceUID = series.series_uid
    report.save_as(folder / "dose.dcm")
    result = scan(folder)
    np.testing.assert_array_equal(lps(result), head())
    assert result.notes == (
        "Screenshots, reports and the like in the series that were left out: 3.",
    )


def test_a_slice_without_geometry_is_named(tmp_path: Path) -> None:
    def edit(i: int, data: pydicom.Dataset) -> None:
        if i == 5:
            del data.ImagePositionPatient

    found = find_sources(ct(edit=edit).write(tmp_path / "a"))
    assert found.refused[0].reason == (
        "1 of 64 files (such as IM0005.dcm): ImagePositionPatient is missing or not three numbers; "
        "export the series again"
    )


def test_a_damaged_slice_is_named(tmp_path: Path) -> None:
    folder = ct().write(tmp_path / "a")
    file = folder / "IM0041.dcm"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=r"^a: the pixels of IM0041\.dcm cannot be decoded \(Exp"):
        scan(folder)


def test_a_damaged_slice_named_after_a_patient_is_counted(tmp_path: Path) -> None:
    folder = ct(tags={"PatientName": "Mustermann^Erika"}).write(tmp_path / "a")
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"Mustermann_{number:04d}.dcm")
    file = folder / "Mustermann_0041.dcm"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=r"^a: the pixels of file 42 of 64 cannot be decoded"):
        scan(folder)


def two_stacks(folder: Path, *, shift_mm: float = 1.0, every: int = 2, **tags: object) -> Path:
    """Two stacks under one UID; the second is shifted and has other tags."""
    uid = generate_uid()
    for name, moved in (("one", 0.0), ("two", shift_mm)):
        step = 2 if name == "one" else every
        heights = STRAIGHT[::step] + moved
        own = tags if name == "two" else {}
        series = Series(head()[::step], heights, series_uid=uid, tags=dict(own))
        series.write(folder / name)
    return folder


@pytest.mark.parametrize(
    ("tags", "by"),
    [
        ({"ConvolutionKernel": "H60"}, "kernel"),
        ({"AcquisitionNumber": 2}, "acquisition"),
        ({"SliceThickness": 1.0}, "slice thickness"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}, "original and derived images"),
    ],
)
@pytest.mark.parametrize("shift_mm", [0.0, 1.0])
def test_two_reconstructions_in_a_series_are_told_apart(
    tags: dict[str, object], by: str, shift_mm: float, tmp_path: Path
) -> None:
    result = scan(two_stacks(tmp_path / "a", shift_mm=shift_mm, **tags))
    assert result.volume.affine[2, 3] == pytest.approx(0.0)
    np.testing.assert_array_equal(lps(result), head()[::2])
    assert result.notes[0] == (
        f"2 reconstructions in one series, distinguished by {by} (32 slices 7 mm apart, 32 slices "
        "7 mm apart): the one with 32 slices 7 mm apart that was acquired first was taken."
    )


def test_the_reconstruction_with_closer_slices_is_taken(tmp_path: Path) -> None:
    result = scan(two_stacks(tmp_path / "a", every=1, ConvolutionKernel="H60"))
    assert result.volume.array.shape[2] == SIZE
    assert result.notes[0].endswith("the one with 64 slices 3.5 mm apart was taken.")


def test_steps_of_one_scan_stay_together(tmp_path: Path) -> None:
    """Each half of the head, and then each slice, has a number of its own."""
    for count in (2, SIZE):

        def edit(i: int, data: pydicom.Dataset, count: int = count) -> None:
            data.AcquisitionNumber = 1 + i * count // SIZE

        result = scan(ct(edit=edit).write(tmp_path / str(count)))
        assert result.notes == ()
        np.testing.assert_array_equal(lps(result), head())


def test_slices_acquired_in_turns_stay_together(tmp_path: Path) -> None:
    """Odd and even slices of one even stack have other numbers: nothing is to be told apart."""

    def edit(i: int, data: pydicom.Dataset) -> None:
        data.AcquisitionNumber = 1 + i % 2

    np.testing.assert_array_equal(lps(scan(ct(edit=edit).write(tmp_path / "a"))), head())


def test_one_position_for_all_slices(tmp_path: Path) -> None:
    def edit(i: int, data: pydicom.Dataset) -> None:
        data.ImagePositionPatient = [0, 0, 0]
        data.SliceLocation = i * SPACING_MM

    order = np.random.default_rng(0).permutation(SIZE).tolist()
    result = scan(ct(edit=edit).write(tmp_path / "a", order=order))
    np.testing.assert_array_equal(lps(result), head())
    (note,) = result.notes
    assert note.startswith("All slices state the same position (ImagePositionPatient)")


def test_one_position_and_no_location(tmp_path: Path) -> None:
    found = find_sources(ct(tags={"ImagePositionPatient": [0, 0, 0]}).write(tmp_path / "a"))
    assert found.refused[0].reason == (
        "all 64 slices state the same position (ImagePositionPatient), so their order and distance "
        "are not known: export the series again"
    )
