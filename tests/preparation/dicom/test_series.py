from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_maker import (
    AIR,
    PERSONAL,
    SIZE,
    SPACING_MM,
    Series,
    ct,
    head,
    sampled,
    write_enhanced,
    write_packed,
    write_report,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from famseg.messages import InputError
from famseg.preparation import Refused, Scan, Source, find_sources
from famseg.preparation._between import from_level, to_level

STRAIGHT = SPACING_MM * np.arange(SIZE)


def only(folder: Path) -> Source:
    found = find_sources(folder)
    assert found.refused == ()
    assert len(found.sources) == 1
    return found.sources[0]


def reason(folder: Path) -> Refused:
    found = find_sources(folder)
    assert found.sources == ()
    assert len(found.refused) == 1
    return found.refused[0]


def scan(folder: Path) -> Scan:
    return pickle.loads(pickle.dumps(only(folder))).read()  # noqa: S301


def lps(result: Scan) -> np.ndarray:
    """Values as written: ``(Z, Y, X)``."""
    return result.volume.array.transpose(2, 1, 0)


def bone_dice(result: Scan, truth: np.ndarray) -> float:
    a, b = lps(result) > 300, truth > 300
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_straight_series_comes_back_as_written(tmp_path: Path) -> None:
    result = scan(ct().write(tmp_path / "head"))
    assert result.kind == "hounsfield"
    assert result.notes == ()
    assert result.volume.array.dtype == np.int16
    np.testing.assert_array_equal(lps(result), head())
    expected = np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1.0])
    expected[:2, 3] = SIZE * SPACING_MM / 2  # the first pixel lies to the right and to the front
    assert result.volume.affine == pytest.approx(expected)


def test_names_of_files_say_nothing(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(SIZE).tolist()
    result = scan(ct().write(tmp_path / "head", order=order))
    np.testing.assert_array_equal(lps(result), head())


def test_feet_last_is_the_same_head(tmp_path: Path) -> None:
    backwards = Series(head()[::-1], STRAIGHT[::-1])
    np.testing.assert_array_equal(lps(scan(backwards.write(tmp_path / "a"))), head())


def test_slope_and_intercept_are_those_of_each_slice(tmp_path: Path) -> None:
    series = ct()
    series.intercept = 0.0

    def edit(i: int, data: pydicom.Dataset) -> None:
        data.RescaleSlope, data.RescaleIntercept = 2, -i
        stored = np.round((head()[i] + i) / 2).astype(np.int16)
        data.PixelData = stored.tobytes()

    series.edit = edit
    assert np.abs(lps(scan(series.write(tmp_path / "a"))) - head()).max() <= 1


@pytest.mark.parametrize("padding", [-2000, -3024])
def test_padding_becomes_air(padding: int, tmp_path: Path) -> None:
    values = head().copy()
    values[:, :5] = padding
    result = scan(Series(values, STRAIGHT, tags={"PixelPaddingValue": padding}).write(tmp_path))
    assert (lps(result)[:, :5] == -1024).all()
    np.testing.assert_array_equal(lps(result)[:, 5:], head()[:, 5:])


def test_padding_above_bone_becomes_air(tmp_path: Path) -> None:
    values = head().copy()
    values[:, :5] = 30000 - 1024
    series = Series(values, STRAIGHT, tags={"PixelPaddingValue": 30000})
    assert (lps(scan(series.write(tmp_path)))[:, :5] == -1024).all()


@pytest.mark.parametrize("tilt", [18.5, -12.0])
def test_a_tilted_gantry_is_straightened(tilt: float, tmp_path: Path) -> None:
    heights = np.arange(-80.0, 320.0, SPACING_MM)
    result = scan(sampled(heights, tilt).write(tmp_path / "tilted"))
    (note,) = result.notes
    assert note.startswith(f"Gantry tilt of {abs(tilt):.1f} degrees corrected: slices moved by up")
    axes = result.volume.affine[:3, :3] / result.volume.spacing_mm
    assert axes.T @ axes == pytest.approx(np.eye(3), abs=1e-5)
    # The head where it was: its values at the millimeters of the straight series.
    voxels = np.argwhere(np.ones((SIZE, SIZE, SIZE)))
    lps_mm = (voxels[:, ::-1] - [SIZE / 2, SIZE / 2, 0]) * SPACING_MM
    back = np.linalg.inv(result.volume.affine)
    index = (lps_mm * [-1, -1, 1]) @ back[:3, :3].T + back[:3, 3]
    from scipy import ndimage

    found = ndimage.map_coordinates(
        result.volume.array.astype(float), index.T, order=1, cval=AIR
    ).reshape(head().shape)
    a, b = found > 300, head() > 300
    dice = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert dice > 0.85


def test_uneven_gaps_are_made_even(tmp_path: Path) -> None:
    heights = [*np.arange(0, 90, 3.6), *np.arange(91.2, 220, 7.2)]
    series = sampled(heights)
    series.spacing_mm = SPACING_MM
    result = scan(series.write(tmp_path / "uneven"))
    assert result.notes == (
        "Slice gaps of 3.60 to 7.20 mm were made even at 3.56 mm by interpolation.",
    )
    spacing = result.volume.spacing_mm[2]
    levels = np.arange(result.volume.array.shape[2]) * spacing
    assert levels[-1] == pytest.approx(heights[-1])
    even = sampled(levels)
    assert bone_dice(result, even.values) > 0.8


def test_rounded_positions_are_no_uneven_gaps(tmp_path: Path) -> None:
    heights = np.round(STRAIGHT / 3.5 * 0.625, 1)
    result = scan(Series(head(), heights).write(tmp_path / "a"))
    assert result.notes == ()
    np.testing.assert_array_equal(lps(result), head())


def test_one_missing_slice_is_filled(tmp_path: Path) -> None:
    kept = [i for i in range(SIZE) if i != 30]
    result = scan(Series(head()[kept], STRAIGHT[kept]).write(tmp_path / "a"))
    assert result.notes == (
        "1 of 64 slices missing, one at a time: filled from the slices beside them.",
    )
    np.testing.assert_array_equal(lps(result)[kept], head()[kept])
    between = from_level((to_level(head()[29]) + to_level(head()[31])) / 2)
    assert np.abs(lps(result)[30] - between).max() <= 1


def test_two_missing_slices_in_a_row_are_refused(tmp_path: Path) -> None:
    kept = [i for i in range(SIZE) if i not in (30, 31)]
    heights = 1.5 * np.arange(SIZE)
    refused = reason(Series(head()[kept], heights[kept]).write(tmp_path / "a"))
    assert refused.reason == (
        "2 slices in a row are missing between slices 30 and 31 of 62 (a gap of 4.5 mm): look for "
        "the missing files"
    )
    assert not refused.left_out


def test_slices_too_far_apart_are_refused(tmp_path: Path) -> None:
    kept = [i for i in range(SIZE) if i not in (30, 31, 32)]
    refused = reason(Series(head()[kept], STRAIGHT[kept]).write(tmp_path / "a"))
    assert refused.reason == (
        "14.0 mm between slices 30 and 31 of 61: up to 10 mm can be bridged; look for missing "
        "files or export a thinner reconstruction"
    )


def test_too_few_slices(tmp_path: Path) -> None:
    refused = reason(Series(head()[:2], STRAIGHT[:2]).write(tmp_path / "a"))
    assert refused.reason == (
        "2 slices, but a volume needs 3 or more: give the folder of the whole series"
    )


def test_two_series_in_one_folder_are_two_subjects(tmp_path: Path) -> None:
    ct().write(tmp_path / "all")
    second = ct(2, tags={"SeriesNumber": 3})
    for i, header in enumerate(second.headers()):
        header.save_as(tmp_path / "all" / f"Z{i:04d}.dcm", enforce_file_format=True)
    found = find_sources(tmp_path)
    assert [s.subject for s in found.sources] == ["all_series1", "all_series2"]
    assert [s.origin for s in found.sources] == ["all series 1", "all series 2"]
    assert [s.read().volume.array.shape[2] for s in found.sources] == [64, 32]


def test_one_series_in_two_folders_is_one_subject(tmp_path: Path) -> None:
    series = ct()
    for i, header in enumerate(series.headers()):
        folder = tmp_path / "head" / f"part{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        header.save_as(folder / f"{i}.dcm", enforce_file_format=True)
    source = only(tmp_path)
    assert source.subject == "head"
    np.testing.assert_array_equal(lps(source.read()), head())


def test_mixed_sizes_are_counted(tmp_path: Path) -> None:
    series = ct()

    def edit(i: int, data: pydicom.Dataset) -> None:
        if i < 4:
            data.Rows = data.Columns = 32
            data.PixelData = data.PixelData[: 2 * 32 * 32]

    series.edit = edit
    assert reason(series.write(tmp_path / "a")).reason == (
        "slices of several sizes in one series (60 of 64 x 64 pixels, 4 of 32 x 32 pixels): "
        "separate them"
    )


def test_mixed_spacings_and_orientations_are_counted(tmp_path: Path) -> None:
    series = ct()
    series.edit = lambda i, data: setattr(data, "PixelSpacing", [1, 1]) if i < 5 else None
    assert reason(series.write(tmp_path / "a")).reason == (
        "slices of several spacings in one series (59 of 3.5 x 3.5 mm, 5 of 1 x 1 mm): separate "
        "them"
    )


def test_mixed_orientations_are_counted(tmp_path: Path) -> None:
    series, turned = ct(), [0, 1, 0, 0, 0, -1]
    series.edit = lambda i, d: setattr(d, "ImageOrientationPatient", turned) if i < 3 else None
    assert reason(series.write(tmp_path / "a")).reason == (
        "slices of several orientations in one series (61 of axial (1.00/0.00/0.00/0.00/1.00/0.00)"
        ", 3 of sagittal (0.00/1.00/0.00/0.00/0.00/-1.00)): separate them"
    )


def test_copies_of_slices_are_left_out(tmp_path: Path) -> None:
    folder = ct().write(tmp_path / "a")
    (folder / "copy.dcm").write_bytes((folder / "IM0010.dcm").read_bytes())
    result = scan(tmp_path)
    assert result.notes == ("Copies of slices that were left out: 1.",)
    np.testing.assert_array_equal(lps(result), head())


def test_different_slices_at_one_place_are_refused(tmp_path: Path) -> None:
    values = np.concatenate([head(), head()[10:12] + 7])
    heights = [*STRAIGHT, *STRAIGHT[10:12]]
    assert reason(Series(values, heights).write(tmp_path / "a")).reason == (
        "different slices at the same place (2 of 64 places): there are several scans in one "
        "series; "
        "export them separately"
    )


def test_points_in_time_are_refused(tmp_path: Path) -> None:
    values = np.concatenate([head()[20:40], head()[20:40] + 7])
    heights = [*STRAIGHT[20:40], *STRAIGHT[20:40]]
    assert reason(Series(values, heights).write(tmp_path / "a")).reason == (
        "4D: 2 slices at each of 20 places (points in time or reconstructions in one series); "
        "export one of them as a series"
    )


def test_points_in_time_that_the_header_names_are_refused(tmp_path: Path) -> None:
    refused = reason(ct(8, tags={"NumberOfTemporalPositions": 3}).write(tmp_path / "a"))
    assert refused.reason == (
        "4D: it contains several points in time; export one of them as a series"
    )


def test_other_modalities_are_refused(tmp_path: Path) -> None:
    refused = reason(ct(8, tags={"Modality": "MR"}).write(tmp_path / "a"))
    assert refused.reason == ("modality MR, not CT: bone is found by CT numbers; give a CT series")
    assert (refused.subject, refused.origin) == ("a", "a")


@pytest.mark.parametrize("spacing", [[0, 0], [3.5, 0], [-1, 1]])
def test_spacing_that_is_none(spacing: list[float], tmp_path: Path) -> None:
    refused = reason(ct(8, tags={"PixelSpacing": spacing}).write(tmp_path / "a"))
    assert refused.reason == (
        f"8 of 8 files: PixelSpacing is {spacing[0]:g} x {spacing[1]:g} mm; export the series again"
    )


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("PixelSpacing", "PixelSpacing is missing or not a pair of numbers"),
        ("ImagePositionPatient", "ImagePositionPatient is missing or not three numbers"),
        ("ImageOrientationPatient", "ImageOrientationPatient is missing or not six numbers"),
    ],
)
def test_missing_geometry(tag: str, words: str, tmp_path: Path) -> None:
    refused = reason(ct(8, tags={tag: None}).write(tmp_path / "a"))
    assert refused.reason == f"8 of 8 files: {words}; export the series again"


def test_an_orientation_that_is_no_rotation(tmp_path: Path) -> None:
    refused = reason(ct(8, tags={"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}).write(tmp_path))
    assert "is not a rotation: rows and columns are not at right angles" in refused.reason


def test_a_tilt_that_positions_do_not_show(tmp_path: Path) -> None:
    refused = reason(ct(2, tags={"GantryDetectorTilt": 15}).write(tmp_path / "a"))
    assert refused.reason == (
        "the header names a gantry tilt of 15 degrees, but the slices are straight above each "
        "other: "
        "the positions must be wrong; export the original series again"
    )


def test_a_tilt_that_was_corrected_before(tmp_path: Path) -> None:
    tags = {"GantryDetectorTilt": 15, "ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}
    result = scan(ct(2, tags=tags).write(tmp_path / "a"))
    assert result.notes == (
        "The headers say that the images were computed from others.",
        "The header names a gantry tilt of 15 degrees, but the positions show none: it was taken "
        "as "
        "corrected before.",
    )


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer (scout view), not a"),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]}, "derived images (reformatted"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "derived images (renderings or"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "a secondary capture (an image of a"),
        ({"SamplesPerPixel": 3}, "color images, not a scan"),
    ],
)
def test_what_is_no_scan_is_left_out(tags: dict[str, object], words: str, tmp_path: Path) -> None:
    ct(8, tags=tags).write(tmp_path / "a")
    ct(8).write(tmp_path / "b")
    found = find_sources(tmp_path)
    assert [s.subject for s in found.sources] == ["b"]
    assert [(r.subject, r.left_out) for r in found.refused] == [("a", True)]
    assert found.refused[0].reason.startswith(words)


def test_a_dose_report_is_left_out(tmp_path: Path) -> None:
    ct(8).write(tmp_path / "head")
    write_report(tmp_path / "head" / "report.dcm")
    found = find_sources(tmp_path)
    assert len(found.sources) == 1
    assert found.refused[0].reason == "not an image (X-Ray Radiation Dose SR Storage)"
    assert found.refused[0].left_out


def test_localizers_in_the_series_are_left_out(tmp_path: Path) -> None:
    series = ct(2)
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    series.edit = lambda i, data: setattr(data, "ImageType", scout) if i == 0 else None
    assert scan(series.write(tmp_path / "a")).notes[0] == (
        "Localizers in the series that were left out: 1."
    )


def test_rle_is_decoded(tmp_path: Path) -> None:
    folder = tmp_path / "rle"
    folder.mkdir()
    for i, header in enumerate(ct(4).headers()):
        header.compress(RLELossless, generate_instance_uid=False)
        header.save_as(folder / f"{i}.dcm")
    np.testing.assert_array_equal(lps(scan(folder)), head()[::4])


@pytest.mark.parametrize(
    ("compressor", "syntax"),
    [("JPEG", JPEGLosslessSV1), ("JPEG2000", JPEG2000Lossless)],
)
def test_jpeg_is_decoded(compressor: str, syntax: str, tmp_path: Path) -> None:
    folder = write_packed(ct(4), tmp_path / "packed", compressor)
    meta = pydicom.dcmread(folder / "0.dcm", stop_before_pixels=True).file_meta
    assert meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(lps(scan(folder)), head()[::4])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_other_encodings_of_headers(syntax: str, tmp_path: Path) -> None:
    folder = ct(4, syntax=syntax).write(tmp_path / "a")
    np.testing.assert_array_equal(lps(scan(folder)), head()[::4])


def test_a_syntax_that_is_not_read_is_named(tmp_path: Path) -> None:
    folder = ct(8).write(tmp_path / "a")
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2KLossless
        data["PixelData"].is_undefined_length = True
        data.PixelData = pydicom.encaps.encapsulate([data.PixelData])
        data.save_as(file)
    assert reason(folder).reason == (
        "its pixels have a compression that famseg cannot read (High-Throughput JPEG 2000 Image "
        "Compression (Lossless Only)): export it uncompressed"
    )


def test_damaged_pixels_name_their_syntax(tmp_path: Path) -> None:
    folder = ct(8).write(tmp_path / "a")
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless
        data["PixelData"].is_undefined_length = True
        data.PixelData = pydicom.encaps.encapsulate([b"no picture at all"])
        data.save_as(file)
    with pytest.raises(InputError, match=r"^a: the pixels of IM000\d.dcm cannot be decoded \(JPEG"):
        only(tmp_path).read()


def test_a_slice_that_is_cut_short(tmp_path: Path) -> None:
    folder = ct(8).write(tmp_path / "a")
    file = folder / "IM0003.dcm"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"^a: (the pixels of )?IM0003\.dcm "):
        only(tmp_path).read()


def test_a_header_that_cannot_be_read(tmp_path: Path) -> None:
    folder = ct(8).write(tmp_path / "a")
    (folder / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00")
    found = find_sources(tmp_path)
    assert len(found.sources) == 1
    assert found.refused[0].origin == "a/broken.dcm"
    assert found.refused[0].reason == (
        "its header cannot be read as DICOM: it is damaged; copy it again"
    )


def test_enhanced_ct(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(SIZE)
    folder = write_enhanced(tmp_path / "enhanced", head()[order], STRAIGHT[order])
    result = scan(folder)
    assert result.kind == "hounsfield"
    np.testing.assert_array_equal(lps(result), head())


def test_frames_without_positions_are_refused(tmp_path: Path) -> None:
    folder = write_enhanced(tmp_path / "enhanced", head()[:4], STRAIGHT[:4])
    data = pydicom.dcmread(folder / "volume.dcm")
    del data.PerFrameFunctionalGroupsSequence
    data.save_as(folder / "volume.dcm")
    assert reason(folder).reason == (
        "1 of 1 files: 4 frames in one file without a position for each, and no PixelSpacing; "
        "export the series again"
    )


def test_a_series_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from famseg.preparation.sources import _read

    source = only(ct(8).write(tmp_path / "a"))

    class Little:
        available = 1000

    monkeypatch.setattr(_read.psutil, "virtual_memory", Little)
    with pytest.raises(
        InputError, match=r"^a: 64x64x8 voxels need 0\.0 GiB of memory while they are prepared"
    ):
        source.read()


def texts_of(tmp_path: Path) -> str:
    found = find_sources(tmp_path)
    words = [*(f"{s.subject} {s.origin}" for s in found.sources), repr(found.refused)]
    for source in found.sources:
        words += source.read().notes
    return " ".join(words).casefold()


@pytest.mark.parametrize(
    "name",
    ["Mustermann_Erika", "ct PID4711 neu", "1964-08-12", "12.08.1964", "ACC0815", "ERIKA", "x1"],
)
def test_nothing_personal_comes_out(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    series = ct(8, tags=dict(PERSONAL))
    series.write(tmp_path / name / "CT")
    ct(8, tags={**PERSONAL, "PixelSpacing": [0, 0], "SeriesNumber": 9}).write(tmp_path / name / "b")
    text = texts_of(tmp_path)
    printed = "".join(capfd.readouterr()).casefold()
    for value in (*PERSONAL.values(), "erika", "mustermann", "1964", "heidestrasse"):
        assert value.casefold() not in text
        assert value.casefold() not in printed
    assert series.series_uid not in text
    if name == "x1":
        assert "x1_ct x1/ct" in text
    else:
        subject = next(s.subject for s in find_sources(tmp_path).sources)
        assert subject.startswith("series_")
        assert len(subject) == len("series_") + 8
        assert f"***/ct ({subject})" in text


def test_other_files_in_a_folder_of_a_patient(tmp_path: Path) -> None:
    folder = ct(8, tags=dict(PERSONAL)).write(tmp_path / "x" / "Erika Mustermann")
    (folder / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00")
    (folder / "old.rar").write_bytes(b"x")
    origins = {(r.subject, r.origin) for r in find_sources(tmp_path / "x").refused}
    assert origins == {("unnamed", "***/broken.dcm"), ("unnamed_2", "***/old.rar")}


# The library that writes the file also objects to the name in it.
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_damaged_headers_tell_nothing_personal(tmp_path: Path) -> None:
    # The value of a UID or code may be arbitrary leftover text.
    tags = {**PERSONAL, "Modality": "ERIKA", "SOPClassUID": "Mustermann"}
    refused = reason(ct(8, tags=tags).write(tmp_path / "a"))
    assert refused.reason.startswith("modality unknown, not CT: ")
    text = {"Rows": None, **tags}
    assert (
        reason(ct(8, tags=text).write(tmp_path / "a")).reason == "not an image (of an unknown kind)"
    )
    image = reason(ct(8, tags={"Rows": None}).write(tmp_path / "a"))
    assert image.reason == "the headers do not say how many pixels there are; copy it again"
    assert not image.left_out


def test_a_neutral_name_is_that_of_the_pixels(tmp_path: Path) -> None:
    ct(8, tags=dict(PERSONAL)).write(tmp_path / "a" / "Erika")
    ct(8, tags=dict(PERSONAL)).write(tmp_path / "b" / "Mustermann", order=range(7, -1, -1))
    first, second = only(tmp_path / "a"), only(tmp_path / "b")
    assert first.subject == second.subject


def test_a_series_in_an_archive(tmp_path: Path) -> None:
    import shutil

    ct(2).write(tmp_path / "in" / "head")
    shutil.make_archive(str(tmp_path / "scans"), "zip", tmp_path / "in")
    found = find_sources(tmp_path / "scans.zip")
    assert [s.subject for s in found.sources] == ["head"]
    assert found.sources[0].files == (tmp_path / "scans.zip",)
    np.testing.assert_array_equal(lps(found.sources[0].read()), head()[::2])


@pytest.mark.slow
def test_real_series(real_data: Path) -> None:
    found = find_sources(real_data / "skulls" / "dicom")
    assert [s.subject for s in found.sources] == ["ge_tilt", "toshiba"]
    tilted, straight = (source.read() for source in found.sources)
    assert [note.split(":")[0] for note in tilted.notes] == [
        "Gantry tilt of 18.5 degrees corrected",
        "Slice gaps of 1.08 to 7.00 mm were made even at 1.08 mm by interpolation.",
    ]
    assert straight.notes == ()
    assert straight.volume.array.shape == (512, 512, 85)
    assert straight.volume.spacing_mm == pytest.approx((0.527, 0.527, 3.0))
