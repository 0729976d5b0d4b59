from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from famseg.datasets import phantom, read_manifest, scan_folder, write_manifest
from famseg.messages import InputError
from famseg.preparation import Splitting, split_folder
from famseg.preparation.batch._leakage import (
    SAME_DICE,
    Duplicate,
    duplicates,
    signature,
    signature_of_text,
    signature_text,
)
from famseg.preparation.batch._record import Folder, Record, write_record
from famseg.preparation.batch._splitting import _split
from famseg.preparation.sources import linked
from famseg.volumes import Volume, read_volume, write_volume

AFFINE = np.diag([3.5, 3.5, 3.5, 1.0])


def moved(mask: np.ndarray, affine: np.ndarray = AFFINE, by: tuple[float, ...] = (0, 0, 0)):
    there = affine.copy()
    there[:3, 3] += by
    return Volume(mask, there)


def dice(a: Volume, b: Volume) -> float:
    shapes = {"a": signature(a), "b": signature(b)}
    (pair,) = duplicates({"a": "1", "b": "2"}, shapes, threshold=0.0)
    return pair.dice


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    return phantom(0, 0, 64)


def copies(mask: np.ndarray, affine: np.ndarray) -> dict[str, Volume]:
    """A second copy of a skull in a data set."""
    stray = mask.copy()
    stray[0, 0, 0] = 1
    missing = mask.copy()
    missing[tuple(np.argwhere(mask)[0])] = 0
    flipped = affine @ np.diag([-1.0, 1, 1, 1])
    flipped[:3, 3] = affine[:3, 3] + affine[:3, 0] * (mask.shape[0] - 1)
    turned = np.roll(affine, 1, axis=1)
    turned[:, [0, 1, 2]] = affine[:, [2, 0, 1]]
    turned[:, 3] = affine[:, 3]
    return {
        "shifted by voxels": Volume(np.roll(mask, (1, 2, -1), (0, 1, 2)), affine),
        "moved": moved(mask, affine, (3, 7, -11.3)),
        "a voxel more": Volume(stray, affine),
        "a voxel less": Volume(missing, affine),
        "0 and 255": Volume(mask * np.uint8(255), affine),
        "other order of axes": Volume(mask.transpose(2, 0, 1), turned),
        "x stored from right to left": Volume(mask[::-1], flipped),
    }


def test_a_copy_is_found_however_it_is_stored(head: np.ndarray) -> None:
    original = Volume(head, AFFINE)
    for name, copy in copies(head, AFFINE).items():
        assert dice(original, copy) >= SAME_DICE, name


@pytest.mark.parametrize("size", [48, 96])
def test_a_copy_on_another_grid_is_found(head: np.ndarray, size: int) -> None:
    spacing = 224 / size
    copy = Volume(phantom(0, 0, size), np.diag([spacing, spacing, spacing, 1.0]))
    assert dice(Volume(head, AFFINE), copy) >= SAME_DICE


def test_different_phantoms_are_not_flagged() -> None:
    affine = np.diag([7.0, 7.0, 7.0, 1.0])
    shapes = {f"p{i}": signature(Volume(phantom(i, 0, 32), affine)) for i in range(20)}
    assert not duplicates({name: name for name in shapes}, shapes)


@pytest.mark.slow
def test_different_people_are_not_flagged_and_their_copies_are(real_data: Path) -> None:
    root = real_data / "skulls"
    paths = sorted([*(root / "heads128").glob("*.nii.gz"), *(root / "truncated64").glob("*.gz")])
    if len(paths) < 20:
        pytest.skip("needs the folders heads128 and truncated64")
    shapes = {path.name: signature(read_volume(path)) for path in paths}
    assert not duplicates({name: name for name in shapes}, shapes)
    for path in (paths[0], paths[-1]):
        volume = read_volume(path)
        for name, copy in copies(volume.array, volume.affine).items():
            assert dice(volume, copy) >= SAME_DICE, f"{path.name}: {name}"


def test_the_same_file_is_found_without_its_shape() -> None:
    empty = np.zeros((30, 30, 30), dtype=np.uint8)
    assert duplicates({"b": "x", "a": "x", "c": "y"}, dict.fromkeys("abc", empty)) == [
        Duplicate("a", "b", 1.0, "same file")
    ]


def test_a_signature_is_the_share_of_each_cell_that_is_bone() -> None:
    mask = np.zeros((16, 16, 16), dtype=np.uint8)
    mask[:, :, 4:12] = 1  # 16 x 16 x 8 mm of bone
    shape = signature(Volume(mask, np.eye(4))).astype(float) / 255
    assert shape.sum() * 8**3 == pytest.approx(16 * 16 * 8, rel=0.01)
    assert shape.max() <= 1
    center = [
        float((shape.sum(axis=others) * np.arange(30)).sum()) for others in ((1, 2), (0, 2), (0, 1))
    ] / shape.sum()
    np.testing.assert_allclose(center, 14.5, atol=0.01)


def test_a_signature_survives_as_text(head: np.ndarray) -> None:
    shape = signature(Volume(head, AFFINE))
    np.testing.assert_array_equal(signature_of_text(signature_text(shape)), shape)
    for text in ("", "AAAA", signature_text(shape)[:-8]):
        with pytest.raises(ValueError, match=r"^no signature$"):
            signature_of_text(text)


def test_an_empty_mask_has_an_empty_signature() -> None:
    assert not signature(Volume(np.zeros((4, 4, 4)), np.eye(4))).any()


def test_groups_join_pairs_in_any_order() -> None:
    assert linked([("c", "d"), ("a", "b"), ("b", "d")]) == dict.fromkeys("abcd", "a")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten phantoms; p8 is p1 after a movement, p9 is the same file as p0."""
    root = tmp_path_factory.mktemp("phantoms")
    affine = np.diag([7.0, 7.0, 7.0, 1.0])
    for i in range(8):
        write_volume(Volume(phantom(i, 0, 32), affine), root / f"p{i}.nii.gz")
    write_volume(moved(phantom(1, 0, 32), affine, (3, 4, 5)), root / "p8.nii.gz")
    (root / "p9.nii.gz").write_bytes((root / "p0.nii.gz").read_bytes())
    return root


@pytest.fixture
def folder(phantoms: Path, tmp_path: Path) -> Path:
    """The ten phantoms in a folder of their own."""
    shutil.copytree(phantoms, tmp_path, dirs_exist_ok=True)
    return tmp_path


def drop(folder: Path, *numbers: int) -> Path:
    """Remove some: comparing heads takes a tenth of a second each."""
    for number in numbers:
        (folder / f"p{number}.nii.gz").unlink()
    return folder


SHARES = {"validation": 0.2, "test": 0.3, "seed": 0}


def other_splits(result: Splitting) -> list[dict[str, str | None]]:
    """Splits of the same subjects and pairs with other seeds."""
    return [
        {s.id: s.split for s in _split(result.subjects, result.pairs, 0.2, 0.3, seed, {})}
        for seed in range(1, 12)
    ]


def test_leakage_is_refused_pair_by_pair(folder: Path) -> None:
    drop(folder, 4, 5, 6, 7)
    with pytest.raises(InputError) as caught:
        split_folder(folder, **SHARES)
    end = (
        "remove one from the manifest, give both the same group there, or keep both in one split "
        "with --allow-duplicates"
    )
    assert caught.value.faults == (
        f"split: p0 and p9 are the same file: {end}",
        f"split: p1 and p8 are near-duplicates (Dice 1.000): {end}",
    )
    assert not (folder / "manifest.csv").exists()


def test_duplicates_stay_in_one_split_where_they_are_allowed(folder: Path) -> None:
    result = split_folder(folder, **SHARES, allow_duplicates=True)
    written = {s.id: s.split for s in read_manifest(folder / "manifest.csv")}
    assert written == {s.id: s.split for s in result.subjects}
    for split in (written, *other_splits(result)):
        assert split["p9"] == split["p0"]
        assert split["p8"] == split["p1"]
        alone = [split[f"p{i}"] for i in range(8)]
        assert [alone.count(s) for s in ("train", "validation", "test")] == [4, 2, 2]


def test_a_split_is_kept_unless_forced(folder: Path) -> None:
    drop(folder, 5, 6, 7, 8, 9)
    first = split_folder(folder, **SHARES)
    written = (folder / "manifest.csv").read_bytes()
    kept = split_folder(folder, validation=0.4, test=0.4, seed=3)
    assert (first.kept, kept.kept) == (False, True)
    assert (folder / "manifest.csv").read_bytes() == written
    forced = split_folder(folder, validation=0.4, test=0.4, seed=3, force=True)
    assert [s.split for s in forced.subjects].count("test") == 2
    assert (folder / "manifest.csv").read_bytes() != written


def test_a_kept_split_that_leaks_is_refused(folder: Path) -> None:
    drop(folder, 3, 4, 5, 6, 7, 8)
    subjects = scan_folder(folder)
    given = [replace(s, split="test" if s.id == "p9" else "train") for s in subjects]
    write_manifest(given, folder / "manifest.csv")
    with pytest.raises(InputError) as caught:
        split_folder(folder, **SHARES, allow_duplicates=True)
    assert caught.value.faults == (
        "split: p0 is in train, and p9, the same skull, is in test: split again with --force",
    )


def test_one_person_may_have_several_scans(folder: Path) -> None:
    person = {"p1": "Ann", "p8": "Ann", "p0": "Bob", "p9": "Bob", "p2": "Bob"}
    given = [replace(s, group=person.get(s.id, "")) for s in scan_folder(folder)]
    write_manifest(given, folder / "manifest.csv")
    result = split_folder(folder, **SHARES)
    assert len(result.pairs) == 2
    written = read_manifest(folder / "manifest.csv")
    assert {s.id: s.group for s in written} == {s.id: person.get(s.id, "") for s in given}
    for split in ({s.id: s.split for s in written}, *other_splits(result)):
        assert split["p1"] == split["p8"]
        assert split["p0"] == split["p9"] == split["p2"]


def test_one_skull_in_two_groups_joins_them(folder: Path) -> None:
    drop(folder, 5, 6, 7, 9)
    person = {"p1": "Ann", "p2": "Ann", "p8": "Bob", "p3": "Bob"}
    given = [replace(s, group=person.get(s.id, "")) for s in scan_folder(folder)]
    write_manifest(given, folder / "manifest.csv")
    with pytest.raises(InputError, match="p1 and p8 are near-duplicates"):
        split_folder(folder, **SHARES)
    result = split_folder(folder, **SHARES, allow_duplicates=True)
    written = {s.id: s.split for s in read_manifest(folder / "manifest.csv")}
    for split in (written, *other_splits(result)):
        assert len({split[name] for name in person}) == 1


def test_a_kept_split_that_divides_a_group_is_refused(folder: Path) -> None:
    drop(folder, 4, 5, 6, 7, 8, 9)
    given = [
        replace(
            s, group="Ann" if s.id in "p1 p2" else "", split="test" if s.id == "p2" else "train"
        )
        for s in scan_folder(folder)
    ]
    write_manifest(given, folder / "manifest.csv")
    with pytest.raises(InputError) as caught:
        split_folder(folder, **SHARES)
    assert caught.value.faults == (
        "split: p1 is in train and p2, of the same group Ann, in test: split again with famseg "
        "split --force, or change the column group",
    )


def test_a_split_of_some_is_refused(folder: Path) -> None:
    drop(folder, 4, 5, 6, 7, 8, 9)
    subjects = [replace(s, split=None if s.id == "p3" else "train") for s in scan_folder(folder)]
    write_manifest(subjects, folder / "manifest.csv")
    message = (
        "^split: 3 of 4 subjects have a split, p3 has none: split all of them anew with --force, "
        "or complete the manifest$"
    )
    with pytest.raises(InputError, match=message):
        split_folder(folder, **SHARES)
    assert split_folder(folder, **SHARES, force=True)


def test_the_shape_in_a_record_is_used_for_the_file_that_it_is_of(folder: Path) -> None:
    drop(folder, 4, 5, 6, 7, 8, 9)
    subjects = {s.id: s for s in scan_folder(folder)}
    shape = signature_text(signature(read_volume(folder / "p1.nii.gz")))
    record = Record("p2", "p2", "done", files={"skulls/p2.nii.gz": "other"}, signature=shape)
    write_record(record, Folder(folder))
    (folder / "records").rename(folder / ".records")  # no folder of a subject
    (folder / ".records").rename(folder / "records")
    write_manifest(list(subjects.values()), folder / "manifest.csv")
    split_folder(folder, **SHARES)
    files = {"skulls/p2.nii.gz": subjects["p2"].sha256}
    write_record(replace(record, files=files), Folder(folder))
    with pytest.raises(InputError, match="p1 and p2 are near-duplicates"):
        split_folder(folder, **SHARES)


def stratified(folder: Path, text: str, column: str = "sex") -> dict[str, str]:
    table = folder / "people.csv"
    table.write_text(text)
    result = split_folder(folder, **SHARES, stratify=column, table=table, force=True)
    return dict(result.strata)


def test_strata_come_from_a_table(folder: Path) -> None:
    drop(folder, 8, 9)
    text = "subject,sex\n" + "".join(f"p{i},{'mf'[i % 2]}\n" for i in range(8))
    assert stratified(folder, text) == {f"p{i}": "mf"[i % 2] for i in range(8)}
    split = {s.id: s.split for s in read_manifest(folder / "manifest.csv")}
    for sex in (0, 1):
        own = [split[f"p{i}"] for i in range(sex, 8, 2)]
        assert [own.count(s) for s in ("train", "validation", "test")] == [2, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,sex\np0,f\n", "people.csv: has no column 'subject': its columns are id, sex"),
        ("subject,age\np0,3\n", "people.csv: has no column 'sex': its columns are subject, age"),
        ("", "people.csv: has no column 'subject': its columns are none"),
        (
            "subject,sex\np0,f\np1,f\np2,f\n",
            "people.csv: has no row for p3, p4, p5 and 2 more: add them, with an empty cell if",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(folder: Path, text: str, message: str) -> None:
    drop(folder, 8, 9)
    with pytest.raises(InputError, match=message):
        stratified(folder, text)


def test_a_missing_table_is_refused(folder: Path) -> None:
    drop(folder, 8, 9)
    with pytest.raises(InputError, match=r"report\.csv: there is no such file: name a table with"):
        split_folder(folder, **SHARES, stratify="volume_ml")
    with pytest.raises(InputError, match=r"^--table: is used only with --stratify COLUMN"):
        split_folder(folder, **SHARES, table=folder / "people.csv")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: there is no such folder: name the folder of"):
        split_folder(tmp_path / "nowhere", **SHARES)


FLAGGED = {"p1": ("cut_vault",), "p2": ("existing_defect", "metal"), "p3": ("metal",)}


@pytest.fixture
def flagged(folder: Path) -> Path:
    """Six phantoms of which some have flags; p9 is the same file as p0."""
    drop(folder, 5, 6, 7, 8)
    given = [replace(s, flags=FLAGGED.get(s.id, ())) for s in scan_folder(folder)]
    write_manifest(given, folder / "manifest.csv")
    (folder / "exclude.txt").write_text("p9\n")
    return folder


def splits(folder: Path) -> dict[str, str | None]:
    read = read_manifest(folder / "manifest.csv")
    return {s.id: "excluded" if s.excluded else s.split for s in read}


def test_incomplete_and_listed_subjects_get_no_split(flagged: Path) -> None:
    result = split_folder(flagged, **SHARES, exclude_list=flagged / "exclude.txt")
    assert not result.pairs, "who is left out is not compared: a list settles duplicates"
    assert result.selection.left_out == {
        "p1": ("cut_vault",),
        "p2": ("existing_defect",),
        "p9": ("on the list",),
    }
    written = splits(flagged)
    assert [name for name, split in written.items() if split == "excluded"] == ["p1", "p2", "p9"]
    assert sorted(written[name] for name in ("p0", "p3", "p4")) == ["test", "train", "validation"]
    assert {s.id: s.flags for s in result.subjects if s.flags} == FLAGGED
    again = split_folder(flagged, **SHARES)
    assert (again.kept, splits(flagged)) == (True, written)


def test_a_split_that_is_there_loses_only_what_is_named(flagged: Path) -> None:
    given = [replace(s, split="train") for s in scan_folder(flagged)]
    write_manifest(given, flagged / "manifest.csv")
    split_folder(flagged, **SHARES, exclude=["metal"], exclude_list=flagged / "exclude.txt")
    kept = {"p0": "train", "p1": "train", "p4": "train"}
    assert splits(flagged) == {**dict.fromkeys(FLAGGED | {"p9": ()}, "excluded"), **kept}


def test_a_person_excludes_by_hand_and_force_brings_back(flagged: Path) -> None:
    out = {"p0", "p4"}
    given = [replace(s, excluded=s.id in out) for s in scan_folder(flagged)]
    write_manifest(given, flagged / "manifest.csv")
    few = {"validation": 0.0, "test": 0.3, "seed": 0}
    split_folder(flagged, **few, include=["existing_defect"])
    written = splits(flagged)
    assert {name for name, split in written.items() if split == "excluded"} == {*out, "p1"}
    split_folder(flagged, **few, allow_duplicates=True, force=True)
    written = splits(flagged)
    assert {name for name, split in written.items() if split == "excluded"} == {"p1", "p2"}
