from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from famseg.datasets import (
    SkullSubject,
    read_manifest,
    scan_folder,
    write_manifest,
)
from famseg.datasets._manifest import SUFFIXES, file_sha256
from famseg.messages import InputError
from famseg.volumes import VOLUME_SUFFIXES


def touch(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def people(count: int) -> list[SkullSubject]:
    return [SkullSubject(f"p{i}", None, "") for i in range(count)]


def faults(function, *arguments, **options) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    return caught.value.faults


def sizes(subjects: list[SkullSubject]) -> dict[str | None, int]:
    splits = [s.split for s in subjects]
    return {split: splits.count(split) for split in set(splits)}


def test_the_two_lists_of_endings_are_the_same() -> None:
    assert SUFFIXES == VOLUME_SUFFIXES  # two, so that finding files does not import SimpleITK


# --- the manifest


def test_a_manifest_survives_the_round_trip(tmp_path: Path) -> None:
    files = [touch(tmp_path / "a, b.nii"), touch(tmp_path / "sub" / 'c"d.mha', "y")]
    subjects = [
        SkullSubject("one, two", files[0], file_sha256(files[0]), "train"),
        SkullSubject('"\u00e4"', files[1], file_sha256(files[1]), None),
    ]
    write_manifest(subjects, tmp_path / "manifest.csv")
    assert read_manifest(tmp_path / "manifest.csv") == subjects
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_files_are_relative_to_the_manifest(tmp_path: Path) -> None:
    inside = touch(tmp_path / "m" / "sub" / "a.nii")
    outside = touch(tmp_path / "b.nii")
    write_manifest(
        [SkullSubject("a", inside, "1"), SkullSubject("b", outside, "2")],
        tmp_path / "m" / "manifest.csv",
    )
    lines = (tmp_path / "m" / "manifest.csv").read_text().splitlines()
    assert lines == ["subject,file,sha256,split", "a,sub/a.nii,1,", f"b,{outside},2,"]


def test_a_synthetic_subject_has_no_file(tmp_path: Path) -> None:
    write_manifest([SkullSubject("a", None, "1", "test")], tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text() == "subject,file,sha256,split\na,,1,test\n"


def test_groups_survive_the_round_trip(tmp_path: Path) -> None:
    subjects = [
        SkullSubject("a", tmp_path / "a.nii", "1", "test", "p, 1"),
        SkullSubject("b", tmp_path / "b.nii", "2"),
    ]
    write_manifest(subjects, tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text().splitlines()[0] == "subject,file,sha256,split,group"
    assert read_manifest(tmp_path / "m.csv", check_files=False) == subjects
    touch(tmp_path / "by_hand.csv", "group,subject,file,sha256,split\n Ann ,a,a.nii,1,\n")
    (read,) = read_manifest(tmp_path / "by_hand.csv", check_files=False)
    assert read.group == "Ann"


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = touch(tmp_path / "m.csv", "subject,file,sha256,split,group,group\na,a.nii,,,x,y\n")
    assert "the header must be" in faults(read_manifest, path)[0]


def test_a_manifest_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = touch(tmp_path / "m.csv", "old")

    def broken():
        yield SkullSubject("a", None, "1")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_manifest(broken(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_hashes_are_filled_in_and_columns_may_be_swapped(tmp_path: Path) -> None:
    file = touch(tmp_path / "a.nii")
    path = touch(tmp_path / "m.csv", "split,subject,sha256,file\ntest,a,,a.nii\n\n")
    assert read_manifest(path) == [SkullSubject("a", file, file_sha256(file), "test")]


def test_a_manifest_from_a_spreadsheet_with_a_byte_order_mark(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii")
    path = tmp_path / "m.csv"
    path.write_bytes(b"\xef\xbb\xbfsubject,file,sha256,split\r\na,a.nii,,\r\n")
    assert [s.id for s in read_manifest(path)] == ["a"]


def test_all_faults_of_a_manifest_at_once(tmp_path: Path) -> None:
    file = touch(tmp_path / "a.nii")
    digest = file_sha256(file)
    path = touch(
        tmp_path / "m.csv",
        "subject,file,sha256,split\n"
        f"a,a.nii,{digest.upper()},train\n"
        f"a,a.nii,{'0' * 64},tests\n"
        ",gone.nii,,test\n"
        "c,,,\n"
        "d,a.nii,\n"
        f"e,{'n' * 300},,test\n",
    )
    assert sorted(faults(read_manifest, path)) == sorted(
        [
            f"{path}:6: 3 cells, the header has 4: quote cells that contain a comma",
            f"{path}:3: subject a is already in line 2",
            f"{path}:3: split 'tests' is none of train, validation, test, excluded",
            f"{path}:3: {file}: its SHA-256 is {digest[:12]}..., but "
            "000000000000... in the manifest: the file has changed; restore it, or empty the cell "
            "to accept it",
            f"{path}:4: subject is empty: name it",
            f"{path}:4: {tmp_path / 'gone.nii'}: there is no such file",
            f"{path}:5: file is empty: name the volume",
            f"{path}:7: {tmp_path / ('n' * 300)}: cannot be read (File name too long)",
        ]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "",
            ":1: the header must be subject,file,sha256,split (optionally also group,flags), got "
            "''",
        ),
        (
            "a,b\n",
            ":1: the header must be subject,file,sha256,split (optionally also group,flags), got "
            "'a,b'",
        ),
        ("subject,file,sha256,split\n", ": no subjects: it has only a header line"),
        ('subject,file,sha256,split\na,"b,c,d\n', ":2: not CSV (unexpected end of data)"),
    ],
)
def test_a_file_that_is_no_manifest(content: str, message: str, tmp_path: Path) -> None:
    path = touch(tmp_path / "m.csv", content)
    assert faults(read_manifest, path) == (f"{path}{message}",)


def test_a_missing_and_a_binary_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    assert faults(read_manifest, path) == (f"{path}: there is no such file",)
    path.write_bytes(b"\xff\xfe\x00\x81")
    assert faults(read_manifest, path) == (f"{path}: not a text file in UTF-8",)


# --- hashes


def test_the_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    file = touch(tmp_path / "a.nii", "hello")
    assert file_sha256(file) == hashlib.sha256(b"hello").hexdigest()


@pytest.mark.parametrize(("header", "data"), [("a.mhd", "a.raw"), ("a.nhdr", "a.raw")])
def test_the_hash_of_a_header_covers_its_voxels(header: str, data: str, tmp_path: Path) -> None:
    SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(np.zeros((3, 3, 3), np.uint8)), str(tmp_path / header)
    )
    before = file_sha256(tmp_path / header)
    (tmp_path / data).write_bytes(b"\x01" * 27)
    assert file_sha256(tmp_path / header) != before


# --- the folder


def test_one_file_a_subject(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.NRRD", "c.v2.mha", "notes.txt", ".hidden.nii", "a.raw"):
        touch(tmp_path / name, name)
    subjects = scan_folder(tmp_path)
    assert [s.id for s in subjects] == ["a", "b", "c.v2"]
    assert [s.file for s in subjects] == [tmp_path / n for n in ("a.NRRD", "b.nii.gz", "c.v2.mha")]
    assert subjects[0].sha256 == hashlib.sha256(b"a.NRRD").hexdigest()
    assert {s.split for s in subjects} == {None}


def test_one_folder_a_subject(tmp_path: Path) -> None:
    touch(tmp_path / "p2" / "mask.nii")
    touch(tmp_path / "p1" / "skull.mha")
    touch(tmp_path / "empty" / "readme.txt")
    touch(tmp_path / ".git" / "mask.nii")
    assert [(s.id, s.file) for s in scan_folder(tmp_path)] == [
        ("p1", tmp_path / "p1" / "skull.mha"),
        ("p2", tmp_path / "p2" / "mask.nii"),
    ]


def test_several_files_in_a_folder_need_a_pattern(tmp_path: Path) -> None:
    for subject in ("p1", "p2"):
        for name in ("ct.nii.gz", "mask_v1.nii.gz"):
            touch(tmp_path / subject / name)
    assert faults(scan_folder, tmp_path) == tuple(
        f"{tmp_path / subject}: 2 volumes (ct.nii.gz, mask_v1.nii.gz): give one per subject, or "
        "choose with data.pattern, e.g. data.pattern='mask*'"
        for subject in ("p1", "p2")
    )
    subjects = scan_folder(tmp_path, pattern="mask*")
    assert [s.file for s in subjects] == [tmp_path / p / "mask_v1.nii.gz" for p in ("p1", "p2")]


def test_two_files_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii")
    touch(tmp_path / "a.mha")
    assert faults(scan_folder, tmp_path) == (
        f"{tmp_path}: 2 volumes are named a: rename all but one",
    )


def test_an_empty_folder_names_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path / "a.stl")
    assert faults(scan_folder, tmp_path) == (
        f"{tmp_path}: no volumes: looked for .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd there and in "
        "its sub-folders",
    )
    touch(tmp_path / "a.nii")
    assert faults(scan_folder, tmp_path, "mask*") == (
        f"{tmp_path}: no volumes that match 'mask*': looked for .nii, .nii.gz, .nrrd, .nhdr, .mha, "
        ".mhd there and in its sub-folders",
    )


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    assert faults(scan_folder, tmp_path / "x") == (
        f"{tmp_path / 'x'}: there is no such folder: set data.root to the folder with the volumes",
    )
    file = touch(tmp_path / "f")
    assert faults(scan_folder, file) == (
        f"{file}: is a file, not a folder: set data.root to the folder with the volumes",
    )


def test_a_manifest_in_the_folder_decides(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii")
    file = touch(tmp_path / "b.nii")
    touch(tmp_path / "manifest.csv", "subject,file,sha256,split\nme,b.nii,,train\n")
    assert scan_folder(tmp_path) == [SkullSubject("me", file, file_sha256(file), "train")]


def test_flags_are_kept(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.nii.gz", "x").with_name("manifest.csv")
    subjects = [
        SkullSubject("a", tmp_path / "a.nii.gz", "", flags=("existing_defect", "metal")),
        SkullSubject("b", tmp_path / "a.nii.gz", ""),
    ]
    write_manifest(subjects, path)
    assert path.read_text().startswith("subject,file,sha256,split,flags\n")
    assert [s.flags for s in read_manifest(path)] == [("existing_defect", "metal"), ()]


def test_who_is_excluded_stays_so(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.nii.gz", "x").with_name("manifest.csv")
    subjects = [
        SkullSubject("a", tmp_path / "a.nii.gz", "", excluded=True),
        SkullSubject("b", tmp_path / "a.nii.gz", "", "train"),
    ]
    write_manifest(subjects, path)
    assert path.read_text().splitlines()[1:] == ["a,a.nii.gz,,excluded", "b,a.nii.gz,,train"]
    assert [(s.split, s.excluded) for s in read_manifest(path)] == [(None, True), ("train", False)]
