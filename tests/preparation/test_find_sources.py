from __future__ import annotations

import pickle
import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import nibabel
import numpy as np
import pytest
import SimpleITK
import trimesh
from dicom_maker import ct

from famseg.files import _archive as archive_module
from famseg.messages import InputError
from famseg.preparation import Scan, Source, find_sources
from famseg.preparation.sources import _read as read_module
from famseg.preparation.sources._names import PersonalWords

Save = Callable[..., Path]


def subjects(root: Path) -> list[str]:
    return [source.subject for source in find_sources(root).sources]


def only(root: Path) -> Source:
    found = find_sources(root)
    assert found.refused == ()
    (source,) = found.sources
    return source


def read(root: Path) -> Scan:
    return pickle.loads(pickle.dumps(only(root))).read()  # noqa: S301


def fault(root: Path) -> str:
    source = only(root)
    with pytest.raises(InputError) as caught:
        source.read()
    assert len(caught.value.faults) == 1
    assert str(root.parent) not in str(caught.value), "no path of the machine"
    return str(caught.value)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_one_volume(ending: str, tmp_path: Path, save: Save, skull: np.ndarray) -> None:
    source = only(save(tmp_path / f"head.v1{ending}", skull))
    assert (source.subject, source.origin) == ("head.v1", f"head.v1{ending}")
    beside = 2 if ending in (".nhdr", ".mhd") else 1
    assert len(source.files) == beside
    assert all(file.is_file() for file in source.files)
    scan = source.read()
    assert scan.kind == "mask"
    np.testing.assert_array_equal(scan.volume.array, skull)


def test_a_folder_of_everything(tmp_path: Path, save: Save, skull: np.ndarray) -> None:
    save(tmp_path / "b.nrrd", skull)
    save(tmp_path / "anna" / "mask.nii.gz", skull)
    save(tmp_path / "two" / "x.mha", skull)
    save(tmp_path / "two" / "y.mha", skull)
    save(tmp_path / ".hidden" / "z.mha", skull)
    ct(8).write(tmp_path / "scan")
    mesh = trimesh.creation.icosphere(radius=80.0)
    (tmp_path / "m.stl").write_bytes(mesh.export(file_type="stl"))
    (tmp_path / "readme.txt").write_text("hello")
    found = find_sources(tmp_path)
    assert found.layout == "folder"
    assert found.refused == ()
    names = [source.subject for source in found.sources]
    assert names == ["anna", "b", "m", "two_x", "two_y", "scan"]
    assert [s.read().kind for s in found.sources] == ["mask"] * 5 + ["hounsfield"]
    assert [s.subject for s in find_sources(tmp_path, layout="dicom").sources] == ["scan"]
    assert "scan" not in [s.subject for s in find_sources(tmp_path, layout="folder").sources]


def test_a_mesh_beside_its_volume_is_left_out(
    tmp_path: Path, save: Save, skull: np.ndarray
) -> None:
    save(tmp_path / "a.nrrd", skull)
    (tmp_path / "a.stl").write_bytes(trimesh.creation.box().export(file_type="stl"))
    found = find_sources(tmp_path)
    assert [s.origin for s in found.sources] == ["a.nrrd"]
    (refused,) = found.refused
    assert (refused.origin, refused.left_out) == ("a.stl", True)
    assert refused.subject != "a", "a name belongs to one subject"
    assert refused.reason == "a mesh beside a volume of the same name: the volume is used"


def test_names_are_fit_and_unique(tmp_path: Path, save: Save, skull: np.ndarray) -> None:
    save(tmp_path / "Schädel 1.nrrd", skull)
    save(tmp_path / "schadel_1.nii", skull)
    save(tmp_path / "a/b" / "x.nrrd", skull)
    assert subjects(tmp_path) == ["Schadel_1", "a_b", "schadel_1_2"]


def test_files_that_are_not_read_are_told(tmp_path: Path, save: Save, skull: np.ndarray) -> None:
    save(tmp_path / "a.nrrd", skull)
    for name in ("b.obj", "c.rar", "d.tar.gz", "e.hdr", "f.dcm"):
        (tmp_path / name).write_bytes(b"x" * 200)
    reasons = {r.origin: r.reason for r in find_sources(tmp_path).refused}
    assert reasons == {
        "b.obj": "this kind of mesh is not supported: save it as STL or PLY",
        "c.rar": "this kind of archive is not supported: unpack it, or pack it as ZIP",
        "d.tar.gz": "this kind of archive is not supported: unpack it, or pack it as ZIP",
        "e.hdr": "Analyze files do not tell left from right: convert to NIfTI or NRRD",
        "f.dcm": "neither DICOM nor another supported kind of file",
    }


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: there is no such file or folder$"):
        find_sources(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: nothing to prepare: looked for DICOM files or f"):
        find_sources(tmp_path / "empty")
    with pytest.raises(
        InputError, match=r"empty: there are no DICOM files in it or in its sub-folders$"
    ):
        find_sources(tmp_path / "empty", layout="dicom")
    (tmp_path / "a.doc").write_text("x")
    (refused,) = find_sources(tmp_path / "a.doc").refused
    assert refused.reason == "neither DICOM nor another supported kind of file"


def ramp(low: float, high: float, dtype: type = np.float32) -> np.ndarray:
    return np.linspace(low, high, 24**3).reshape(24, 24, 24).astype(dtype)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.eye(24, dtype=np.int32)[None].repeat(24, 0), "mask"),
        (255 * np.eye(24, dtype=np.float32)[None].repeat(24, 0), "mask"),
        (np.arange(24**3).reshape(24, 24, 24) % 5, "mask"),
        (np.zeros((24, 24, 24), np.uint8), "mask"),
        (ramp(-1000, 2000), "hounsfield"),
        (ramp(-1000, 2000, np.int16), "hounsfield"),
        (ramp(0, 3000), "intensity"),
        (ramp(0, 1), "intensity"),
        (ramp(0, 255, np.uint8), "intensity"),
        (ramp(-1000, 100), "intensity"),
        (np.eye(24)[None].repeat(24, 0) * 2 - 1, "intensity"),
        (1 + np.arange(24**3).reshape(24, 24, 24) % 2, "intensity"),
    ],
)
def test_kinds(values: np.ndarray, kind: str, tmp_path: Path, save: Save) -> None:
    values = values.astype(np.int32) if values.dtype == np.int64 else values
    scan = read(save(tmp_path / "a.nrrd", values))
    assert scan.kind == kind
    assert scan.notes == ()
    np.testing.assert_array_equal(scan.volume.array, values)


def test_many_labels_that_the_first_look_misses(tmp_path: Path) -> None:
    values = np.zeros((200, 200, 100), dtype=np.uint8)
    values[1, 1, 1::2] = 1 + np.arange(50)
    kind, _, _ = read_module.understand(values)
    assert kind == "intensity"


def test_a_smoothed_mask_is_a_mask(tmp_path: Path, save: Save) -> None:
    smooth = np.zeros((40, 40, 40), dtype=np.float32)
    smooth[9:31, 9:31, 9:31] = 0.3
    smooth[10:30, 10:30, 10:30] = 1.0
    scan = read(save(tmp_path / "a.nrrd", smooth * 255))
    assert scan.kind == "mask"
    assert scan.notes == ("A smoothed mask: voxels above half of the maximum are bone.",)
    np.testing.assert_array_equal(scan.volume.array, smooth > 0.5)


def test_padding_becomes_air(tmp_path: Path, save: Save) -> None:
    values = ramp(-3024, 2000, np.int16)
    scan = read(save(tmp_path / "a.nrrd", values))
    np.testing.assert_array_equal(scan.volume.array, np.maximum(values, -1024))
    assert scan.volume.array.dtype == np.int16
    assert scan.notes == ("Values below -1024 HU (padding, down to -3024) were set to -1024.",)


def test_a_header_without_direction(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((6, 6, 6), np.uint8), np.eye(4))
    image.header.set_sform(None, code=0)
    image.header.set_qform(None, code=0)
    image.to_filename(tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<hh", content, 252, 0, 0)
    (tmp_path / "a.nii").write_bytes(content)
    assert fault(tmp_path / "a.nii") == (
        "a.nii: no orientation: sform_code and qform_code are 0, so left and right are not known; "
        "set one of them"
    )


NRRD = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 6 6 6\nencoding: raw\nendian: little\n{}\n"
META_IMAGE = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 6 6 6\n{}"
    "ElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.nrrd", NRRD.format("spacings: 3 3 4\n")),
        ("a.mha", META_IMAGE.format("ElementSpacing = 3 3 4\n")),
    ],
)
def test_a_header_that_leaves_the_direction_open(name: str, header: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(header.encode() + bytes([0, 1] * 108))
    scan = read(tmp_path / name)
    assert scan.volume.spacing_mm == (3.0, 3.0, 4.0)
    assert scan.notes == (
        "The header states no direction: axes were assumed to lead to the left, the back and the "
        "top. Check that left and right are correct.",
    )


@pytest.mark.parametrize(
    ("name", "header"), [("a.nrrd", NRRD.format("")), ("a.mha", META_IMAGE.format(""))]
)
def test_a_header_that_leaves_the_spacing_open(name: str, header: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(header.encode() + bytes([0, 1] * 108))
    assert fault(tmp_path / name) == (
        f"{name}: the header states no spacing, so the size in mm is not known: add it (spacings "
        "in NRRD, ElementSpacing in MetaImage)"
    )


def test_four_dimensions(tmp_path: Path) -> None:
    series = np.zeros((6, 6, 6, 2), np.uint8)
    nibabel.Nifti1Image(series, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    assert fault(tmp_path / "a.nii.gz") == (
        "a.nii.gz: 6x6x6x2 voxels is 4D: give one 3D volume per file"
    )


def huge(path: Path, size: int) -> Path:
    image = SimpleITK.GetImageFromArray(np.zeros((6, 6, 6), np.uint8))
    SimpleITK.WriteImage(image, str(path))
    path.write_text(path.read_text().replace("DimSize = 6 6 6", f"DimSize = {size} {size} {size}"))
    with path.with_suffix(".raw").open("r+b") as voxels:
        voxels.truncate(min(size**3, 2**30))  # takes no room on the disk
    return path


def test_a_huge_file(tmp_path: Path) -> None:
    assert fault(huge(tmp_path / "a.mhd", 40000)) == (
        "a.mhd: the header announces 40000x40000x40000 voxels, more than 1073741824: it is "
        "damaged, or the volume must be resampled first"
    )


def test_a_file_that_does_not_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Little:
        available = 2**30

    monkeypatch.setattr(read_module.psutil, "virtual_memory", Little)
    assert fault(huge(tmp_path / "a.mhd", 800)) == (
        "a.mhd: 800x800x800 voxels need 1.9 GiB of memory while they are prepared, 1.0 GiB are "
        "free: use a larger machine, or resample it first"
    )


def test_messages_have_no_paths(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("hello " * 99)
    assert fault(tmp_path / "a.nii") == ("a.nii: its content is not NIfTI, though its name says so")
    image = SimpleITK.GetImageFromArray(np.zeros((6, 6, 6), np.uint8))
    SimpleITK.WriteImage(image, str(tmp_path / "b.nhdr"))
    (tmp_path / "b.raw").unlink()
    assert fault(tmp_path / "b.nhdr").startswith("b.nhdr: ")


@pytest.mark.parametrize("name", ["head.nii.gz", "head.nii", "head.stl"])
def test_a_link_to_a_file_elsewhere_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / name).write_bytes(b"elsewhere")
    (folder / name).symlink_to(tmp_path / name)
    (folder / "notes.gz").symlink_to(tmp_path / name)
    (refused,) = find_sources(folder).refused
    assert refused.subject == "head"
    assert refused.reason.startswith("a link that leads out of the folder: copy the file, or")


def packed(path: Path, *files: Path, names: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, name in zip(files, names or [f.name for f in files], strict=True):
            archive.write(file, name)
    return path


def test_an_archive_is_read_and_cleaned_up(
    tmp_path: Path, save: Save, skull: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = save(tmp_path / "a.nii.gz", skull), save(tmp_path / "b.nrrd", skull)
    root = packed(tmp_path / "in.zip", a, b, names=("heads/a.nii.gz", "heads/b.nrrd"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    found = find_sources(root)
    assert [s.subject for s in found.sources] == ["heads_a", "heads_b"]
    assert [s.origin for s in found.sources] == ["heads/a.nii.gz", "heads/b.nrrd"]
    for source in found.sources:
        np.testing.assert_array_equal(source.read().volume.array, skull)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_faults_inside_an_archive(tmp_path: Path, save: Save, skull: np.ndarray) -> None:
    (tmp_path / "a.nii").write_text("hello " * 99)
    assert fault(packed(tmp_path / "a.zip", tmp_path / "a.nii")) == (
        "a.nii: its content is not NIfTI, though its name says so"
    )
    header = save(tmp_path / "b.mhd", skull)
    assert fault(packed(tmp_path / "b.zip", header)) == (
        "b.mhd: its voxels are in another file of the archive: unpack it first"
    )
    inner = packed(tmp_path / "c.zip", header)
    (refused,) = find_sources(packed(tmp_path / "d.zip", inner)).refused
    assert refused.reason == "an archive inside an archive: unpack the outer one"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil.nii", "a member is outside the folder (..)"),
        ("a/../../evil.nii", "a member is outside the folder (..)"),
        ("/evil.nii", "a member has an absolute path"),
        ("C:/evil.nii", "a member has an absolute path"),
        ("..\\evil.nii", "a member is outside the folder (..)"),
    ],
)
def test_unsafe_archives(name: str, words: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, b"evil")
    found = find_sources(tmp_path)
    assert found.sources == ()
    assert found.refused[0].reason == (f"the archive is not safe to unpack: {words}; do not use it")


def test_links_in_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("a.nii")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert find_sources(tmp_path).refused[0].reason == (
        "the archive is not safe to unpack: a member is a symbolic link; do not use it"
    )


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "_RATIO_FROM_BYTES", 2**20)
    (tmp_path / "a.nii").write_bytes(bytes(2**22))
    packed(tmp_path / "a.zip", tmp_path / "a.nii")
    (tmp_path / "a.nii").unlink()
    assert find_sources(tmp_path).refused[0].reason == (
        "a member unpacks to 4194304 bytes, 500 times its size or more: this may "
        "be an archive made to fill "
        "the disk; do not use it"
    )


def test_too_large_a_member_is_not_unpacked(
    tmp_path: Path, save: Save, skull: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = packed(tmp_path / "a.zip", save(tmp_path / "a.nii", skull))
    source = only(root)
    monkeypatch.setattr(archive_module, "MAX_MEMBER_BYTES", 1000)
    assert (
        "more than 1000: this may be an archive made to fill"
        in find_sources(root).refused[0].reason
    )
    with pytest.raises(
        InputError, match=r"^a\.nii: a member has \d+ bytes or more, more than 1000"
    ):
        source.read()


def test_a_member_that_is_larger_than_announced(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as stream:
        stream.write(bytes(5000))
    with (
        (tmp_path / "a").open("rb") as source,
        pytest.raises(InputError, match=r"^a member has 5000 bytes or more, more than 4000"),
    ):
        archive_module._copy(source, tmp_path / "b", 4000)


def test_damaged_archives(tmp_path: Path, save: Save, skull: np.ndarray) -> None:
    root = packed(tmp_path / "a.zip", save(tmp_path / "in" / "a.nii", skull))
    source = only(root)
    content = bytearray(root.read_bytes())
    content[len(content) // 3] ^= 0xFF
    root.write_bytes(content)
    with pytest.raises(InputError, match=r"^a\.nii: the archive is damaged: copy it again$"):
        source.read()
    root.write_bytes(content[:100])
    assert find_sources(root).refused[0].reason == (
        "the archive is damaged or cut short: copy it again"
    )


def test_a_full_disk(
    tmp_path: Path, save: Save, skull: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = only(packed(tmp_path / "a.zip", save(tmp_path / "a.nii", skull)))
    opened = Path.open

    def full(self: Path, mode: str = "r", **options: object) -> object:
        if "w" in mode:
            raise OSError(28, "No space left on device")
        return opened(self, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(
        InputError,
        match=r"^a\.nii: cannot be unpacked to the temporary folder \(No space left on device\): "
        r"free some space, or set TMPDIR to another folder$",
    ):
        source.read()


def test_personal_words() -> None:
    uid = "1.2.840.99.4711"
    texts = ["Müller^Eva Maria", "12", "Klinik Süd 7", "Li^An", uid]
    words = PersonalWords(texts, ["19800517"])
    assert words.in_text(f"study {uid}")
    for text in ("mueller", "CT Muller", "MÜLLER-2", "1980-05-17", "17.05.80", "scan12", "li_ct"):
        assert words.in_text(text), text
    for text in ("evaluation", "scan120", "clinic", "Hans", "ct7", "j2k", "840", "1981"):
        assert not words.in_text(text), text
    assert words.masked(PurePosixPath("a/Eva Müller/ct")) == "a/***/ct"


def test_real_masks(real_data: Path) -> None:
    found = find_sources(real_data / "skulls" / "native")
    assert found.layout == "folder"
    assert len(found.sources) == 7
    assert found.sources[0].read().kind == "mask"
