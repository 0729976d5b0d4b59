from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from famseg.datasets import (
    FolderData,
    PhantomData,
    Skulls,
    phantom,
    read_manifest,
    scan_folder,
    write_manifest,
)
from famseg.messages import InputError

Save = Callable[..., Path]


def phantoms(**changes: object) -> PhantomData:
    return PhantomData(**{"subjects": 8, "size": 32, "spacing_mm": 7.0, **changes})


def folder(root: Path, **changes: object) -> FolderData:
    return FolderData(**{"root": str(root), "size": 32, "spacing_mm": 7.0, **changes})


def ids(skulls: Skulls) -> list[list[str]]:
    return [[s.id for s in split] for split in (skulls.train, skulls.validation, skulls.test)]


@pytest.fixture
def heads(save: Save, tmp_path: Path) -> Path:
    """A folder of eight heads in three formats."""
    affine = np.diag([7.0, 7.0, 7.0, 1.0])
    for i in range(8):
        ending = ("nii.gz", "mha", "nrrd")[i % 3]
        save(phantom(i, 0, 32), f"heads/head{i}.{ending}", affine)
    return tmp_path / "heads"


def test_phantoms() -> None:
    skulls = phantoms(validation=0.25, test=0.25).build(seed=3)
    assert [len(split) for split in ids(skulls)] == [4, 2, 2]
    assert len({name for split in ids(skulls) for name in split}) == 8
    assert skulls.size == 32
    first = next(s for s in skulls.train)
    number = int(first.id.removeprefix("phantom_"))
    assert np.array_equal(first.mask, phantom(number, 3, 32, 7.0))
    assert first.spacing_mm == (7.0, 7.0, 7.0)
    assert first.affine[:3, 3].tolist() == [-108.5] * 3, "the middle of the grid is the origin"
    assert len(skulls.subjects) == 8


def test_a_seed_gives_other_phantoms() -> None:
    one, two = phantoms().build(seed=0), phantoms().build(seed=1)
    assert one.fingerprint != two.fingerprint
    assert not any(np.array_equal(a.mask, b.mask) for a in one.train for b in two.train)


def test_incomplete_and_excluded_subjects_are_not_trained_on(
    heads: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = {"head1": ("cut_vault",), "head2": ("existing_defect",), "head3": ("metal",)}
    people = [
        replace(s, flags=flags.get(s.id, ()), excluded=s.id == "head4") for s in scan_folder(heads)
    ]
    write_manifest(people, heads / "manifest.csv")

    def names(**changes: object) -> set[str]:
        return {name for split in ids(folder(heads, **changes).build(seed=0)) for name in split}

    assert names() == {"head0", "head3", "head5", "head6", "head7"}
    assert caplog.messages == [
        f"{heads}: 3 of 8 subjects are not used as targets: 1 with cut_vault, 1 with "
        "existing_defect, 1 excluded in the manifest. To use them: famseg split --force --include "
        "cut_vault,existing_defect, then data.include=[cut_vault,existing_defect]."
    ]
    changed = names(exclude=["metal"], include=["cut_vault"])
    assert changed == {"head0", "head1", "head5", "head6", "head7"}
    with pytest.raises(
        InputError, match=r"^data\.exclude: there is no flag 'metall': did you mean"
    ):
        names(exclude=["metall"])


def test_the_fingerprint_names_the_data() -> None:
    first = phantoms().build(seed=0).fingerprint
    assert len(first) == 64
    assert phantoms().build(seed=0).fingerprint == first
    for changed in (
        phantoms(subjects=9),
        phantoms(test=0.5),
        phantoms(size=40),
        phantoms(spacing_mm=7.5),
    ):
        assert changed.build(seed=0).fingerprint != first


def test_a_second_build_comes_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = phantoms(cache=str(tmp_path / "c"))
    first = data.build(seed=0)
    monkeypatch.setattr("famseg.datasets.skulls._build.phantom", None)
    again = data.build(seed=0)
    assert all(
        np.array_equal(a.mask, b.mask) for a, b in zip(first.train, again.train, strict=True)
    )
    assert again.fingerprint == first.fingerprint


def test_progress_is_told(heads: Path) -> None:
    for data in (phantoms(), folder(heads)):
        told: list[tuple[int, int]] = []
        data.build(seed=0, progress=lambda done, of, told=told: told.append((done, of)))
        assert told == [(i, 8) for i in range(1, 9)]


def test_a_folder_of_several_formats(heads: Path) -> None:
    skulls = folder(heads, validation=0.25, test=0.25).build(seed=0)
    assert [len(split) for split in ids(skulls)] == [4, 2, 2]
    for skull in (*skulls.train, *skulls.validation, *skulls.test):
        number = int(skull.id.removeprefix("head"))
        assert np.array_equal(skull.mask, phantom(number, 0, 32)), skull.id


def test_the_fingerprint_of_a_folder_follows_its_content(heads: Path, save: Save) -> None:
    first = folder(heads).build(seed=0).fingerprint
    assert folder(heads).build(seed=0).fingerprint == first
    assert folder(heads, center="head").build(seed=0).fingerprint != first
    assert folder(heads).build(seed=1).fingerprint != first, "another split"
    save(phantom(9, 0, 32), "heads/head1.mha", np.diag([7.0, 7.0, 7.0, 1.0]))
    assert folder(heads).build(seed=0).fingerprint != first


def test_a_folder_moved_elsewhere_is_the_same_data(heads: Path) -> None:
    first = folder(heads).build(seed=0).fingerprint
    moved = heads.rename(heads.parent / "elsewhere")
    assert folder(moved).build(seed=0).fingerprint == first


def test_a_changed_file_is_prepared_anew(heads: Path, save: Save) -> None:
    data = folder(heads, validation=0.0, test=0.0)
    before = data.build(seed=0).train
    save(phantom(9, 0, 32), "heads/head1.mha", np.diag([7.0, 7.0, 7.0, 1.0]))
    after = data.build(seed=0).train
    assert [np.array_equal(a.mask, b.mask) for a, b in zip(before, after, strict=True)] == [
        True,
        False,
        True,
        True,
        True,
        True,
        True,
        True,
    ]


def test_the_manifest_of_a_run_gives_the_same_split_back(heads: Path) -> None:
    first = folder(heads).build(seed=5)
    write_manifest(first.subjects, heads / "manifest.csv")
    again = folder(heads).build(seed=6)
    assert ids(again) == ids(first)
    assert again.fingerprint == first.fingerprint
    assert [s.split for s in read_manifest(heads / "manifest.csv")].count("test") == 2


def test_faults_of_all_files_at_once(heads: Path, save: Save) -> None:
    content = (heads / "head0.nii.gz").read_bytes()
    (heads / "head0.nii.gz").write_bytes(content[: len(content) // 2])
    save(np.zeros((9, 9, 9), np.uint8), "heads/head2.nrrd")
    (heads / "head4.mha").write_text("no volume")
    with pytest.raises(InputError) as caught:
        folder(heads).build(seed=0)
    assert caught.value.faults == (
        f"{heads / 'head0.nii.gz'}: the file is cut short or damaged: copy it again",
        f"{heads / 'head2.nrrd'}: the mask is all zero: there is no bone in it",
        f"{heads / 'head4.mha'}: its content does not have the format of its file name",
    )


def test_an_unwritable_cache_is_a_warning(heads: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="continuing without a cache"):
        skulls = folder(heads, cache=str(tmp_path / "file" / "c")).build(seed=0)
    assert len(skulls.train) == 5


def test_resize_gives_each_subject_its_own_spacing(heads: Path) -> None:
    skulls = folder(heads, fit="resize", validation=0.0, test=0.0).build(seed=0).train
    assert len({skull.spacing_mm for skull in skulls}) > 3
    assert all(skull.mask[1:-1, 1:-1, 1:-1].sum() == skull.mask.sum() for skull in skulls)


@pytest.mark.slow
def test_monai_is_imported_only_to_prepare(heads: Path) -> None:
    import subprocess

    program = (
        "import sys, warnings; from famseg.datasets import FolderData, PhantomData\n"
        "assert not {'torch', 'monai', 'SimpleITK', 'scipy'} & set(sys.modules), 'config'\n"
        f"FolderData(root={str(heads)!r}, size=32, spacing_mm=7.0).build(seed=0)\n"
        "assert not {'torch', 'monai'} & set(sys.modules), 'cached'\n"
    )
    folder(heads).build(seed=0)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
