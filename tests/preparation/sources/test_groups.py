"""One group per person: by headers, of which only a keyed hash is stored, and by paths."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dicom_maker import ct
from numpy.typing import NDArray
from stand_ins import found, steps

from famseg.datasets import SkullSubject, read_manifest, write_manifest
from famseg.messages import InputError
from famseg.preparation import Outcome, Settings, find_sources, plan_run, prepare_folder
from famseg.preparation.sources._groups import group_labels, identity_of, read_salt

SALT = b"s" * 32


def labels(
    sources: dict[str, tuple[str, str, str]], given: dict[str, str] | None = None
) -> dict[str, str]:
    """Group subjects by patient, study and frame."""
    whose = [(name, f"{name}.nii", identity_of(*values)) for name, values in sources.items()]
    return group_labels(whose, SALT, None, given or {})


def parts(groups: dict[str, str]) -> set[frozenset[str]]:
    """Which subjects are together."""
    return {frozenset(s for s, own in groups.items() if own == label) for label in groups.values()}


def test_each_of_the_three_identifiers_links_and_links_chain() -> None:
    groups = labels(
        {
            "a": ("P1", "1.1", "1.1.1"),
            "same_patient": ("P1", "1.2", "1.2.1"),
            "same_study_as_that": ("", "1.2", "1.9.1"),
            "same_frame_as_that": ("", "1.7", "1.9.1"),
            "another": ("P2", "1.3", "1.3.1"),
        }
    )
    assert parts(groups) == {
        frozenset({"a", "same_patient", "same_study_as_that", "same_frame_as_that"}),
        frozenset({"another"}),
    }
    assert all(re.fullmatch("person_[0-9a-f]{12}", label) for label in groups.values())


@pytest.mark.parametrize(
    "patient", ["", "anonymous", "ANON^YMIZED", "0000", "N/A", "Unknown", "xxx", "-", "ANON0000"]
)
def test_an_identifier_that_was_removed_is_of_nobody(patient: str) -> None:
    atlas = "1.2.840.10008.1.4.1.2"
    groups = labels({"a": (patient, "1.1", atlas), "b": (patient, "1.2", atlas)})
    assert groups["a"] != groups["b"]


def test_what_nothing_is_known_of_has_no_group() -> None:
    assert labels({"a": ("", "", ""), "b": ("anonymous", "", "")}) == {}


def test_a_hash_needs_the_salt_and_says_which_identifier_it_is_of() -> None:
    whose = [("a", "a", identity_of("1", "1", "1"))]
    assert group_labels(whose, SALT, None, {}) != group_labels(whose, b"t" * 32, None, {})
    by_patient, by_study = labels({"a": ("1.5", "", "")}), labels({"a": ("", "1.5", "")})
    assert by_patient != by_study


def test_a_further_scan_does_not_rename_a_person() -> None:
    first = labels({"a": ("P1", "1.1", "")})
    assert labels({"a": ("P1", "1.1", ""), "b": ("P1", "1.0", "1")})["b"] == first["a"]


def test_a_group_set_by_hand_stays_and_takes_in_who_belongs_to_it() -> None:
    people = {"a": ("P1", "1", ""), "b": ("P1", "2", ""), "c": ("P2", "3", "")}
    assert labels(people, {"a": "Ann"}) == {"a": "Ann", "b": "Ann", "c": labels(people)["c"]}
    assert labels(people, {"a": "Ann", "c": "Ann"})["c"] == "Ann"
    divided = labels(people, {"a": "Ann", "b": "Bob"})
    assert (divided["a"], divided["b"]) == ("Ann", "Bob")
    # Automatic groups are determined again: the headers may contain more than before.
    old = {"a": "person_000000000000", "b": "person_111111111111"}
    assert labels(people, old) == labels(people)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Outcome]:
    """Prepare stand-ins of the given names, with a pattern."""

    def prepare(*names: str, group_by: str | None = None) -> Outcome:
        root, out = tmp_path / "in", tmp_path / "out"
        plan = plan_run(found(root, names), root, out, {"size": 32}, group_by=group_by)
        return prepare_folder(plan, steps, workers=0)

    return prepare


def manifest(tmp_path: Path) -> dict[str, str]:
    return {s.id: s.group for s in read_manifest(tmp_path / "out" / "manifest.csv")}


def test_a_pattern_of_the_path_groups(run: Callable[..., Outcome], tmp_path: Path) -> None:
    names = ("sub-01_a", "sub-01_b", "sub-02_a", "other")
    assert run(*names, group_by="sub-[0-9]+").groups == {
        "sub-01_a": "sub-01",
        "sub-01_b": "sub-01",
        "sub-02_a": "sub-02",
    }
    assert manifest(tmp_path)["other"] == ""
    # The next run without the option reads them from the manifest, which people may edit.
    subjects = read_manifest(tmp_path / "out" / "manifest.csv")
    changed = [SkullSubject(s.id, s.file, s.sha256, s.split, s.group or "me") for s in subjects]
    write_manifest(changed, tmp_path / "out" / "manifest.csv")
    assert run(*names).groups["other"] == "me"
    assert manifest(tmp_path)["sub-01_b"] == "sub-01"
    assert not (tmp_path / "out" / ".salt").exists(), "nothing was hashed"


def test_groups_of_a_pattern_are_what_is_in_its_brackets(run: Callable[..., Outcome]) -> None:
    groups = run("x_7_2", "y_7_1", "y_8_1", group_by="([0-9])_[0-9]").groups
    assert groups == {"x_7_2": "7", "y_7_1": "7", "y_8_1": "8"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("sub-(", r"^--group-by 'sub-\(': is not a regular expression \(missing \)"),
        (
            "pat",
            r"^--group-by 'pat': matches none of the 2 paths below the source, such as 'a\.npy'",
        ),
    ],
)
def test_a_pattern_of_no_use_is_refused(
    run: Callable[..., Outcome], pattern: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run("a", "b", group_by=pattern)


def test_the_salt_is_made_once_and_is_the_owners(tmp_path: Path) -> None:
    salt = read_salt(tmp_path / ".salt")
    assert read_salt(tmp_path / ".salt") == salt
    assert len(salt) == 32
    assert stat.S_IMODE((tmp_path / ".salt").stat().st_mode) == 0o600
    (tmp_path / ".salt").write_text("12")
    with pytest.raises(InputError, match=r"\.salt: is damaged: remove it"):
        read_salt(tmp_path / ".salt")


def take(scan: object, *, companions: object, like: NDArray[np.uint8]) -> object:
    """Return a small skull whatever the scan is: only its group is tested."""
    from famseg.preparation import Scan
    from famseg.volumes import Volume

    return steps(Scan(Volume(like, np.diag([7.0, 7.0, 7.0, 1.0])), "mask"), companions={})


def test_dicom_series_of_one_patient_are_one_group(
    tmp_path: Path, skull: NDArray[np.uint8]
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    for folder, patient in (("a", "PID4711"), ("b", "PID4711"), ("c", "PID0815")):
        tags = {"PatientID": patient, "FrameOfReferenceUID": f"1.2.3.{ord(folder)}"}
        ct(16, tags=tags).write(root / folder)
    plan = plan_run(find_sources(root), root, out, {"size": 32})
    assert "PID4711" not in repr(plan)
    groups = prepare_folder(plan, partial(take, like=skull), workers=0).groups
    assert groups["a"] == groups["b"] != groups["c"]
    assert manifest(tmp_path) == groups
    everything = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    for secret in (b"PID4711", b"PID0815", b"1.2.3.97"):
        assert secret not in everything
    again = plan_run(find_sources(root), root, out, {"size": 32})
    assert not again.todo
    assert prepare_folder(again, partial(take, like=skull), workers=0).groups == groups


def test_the_salt_is_not_made_by_looking(tmp_path: Path) -> None:
    root = tmp_path / "in"
    ct(16, tags={"PatientID": "PID4711"}).write(root / "a")
    plan_run(find_sources(root), root, tmp_path / "out", vars(Settings()))
    assert not (tmp_path / "out").exists()
