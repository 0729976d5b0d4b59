from __future__ import annotations

import numpy as np
import pytest

from famseg.datasets import SkullSubject, split_subjects, strata_of
from famseg.messages import InputError


def people(count: int) -> list[SkullSubject]:
    return [SkullSubject(f"p{i}", None, "") for i in range(count)]


def faults(function, *arguments, **options) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    return caught.value.faults


def sizes(subjects: list[SkullSubject]) -> dict[str | None, int]:
    splits = [s.split for s in subjects]
    return {split: splits.count(split) for split in set(splits)}


def test_shares_are_exact_and_disjoint() -> None:
    subjects = split_subjects(people(100), 0.1, 0.25, seed=0)
    assert sizes(subjects) == {"train": 65, "validation": 10, "test": 25}
    assert [s.id for s in subjects] == [s.id for s in people(100)], "order is kept"


def test_a_split_depends_on_seed_and_names_not_on_order() -> None:
    subjects = people(30)
    shuffled = [subjects[i] for i in np.random.default_rng(3).permutation(30)]
    first = {s.id: s.split for s in split_subjects(subjects, 0.2, 0.2, seed=1)}
    assert {s.id: s.split for s in split_subjects(shuffled, 0.2, 0.2, seed=1)} == first
    assert {s.id: s.split for s in split_subjects(subjects, 0.2, 0.2, seed=2)} != first


def test_a_split_is_the_same_in_every_version() -> None:
    subjects = split_subjects(people(8), 0.25, 0.25, seed=0)
    assert [s.id for s in subjects if s.split == "test"] == ["p1", "p2"]
    assert [s.id for s in subjects if s.split == "validation"] == ["p3", "p5"]


def test_a_new_subject_moves_few_others() -> None:
    before = {s.id: s.split for s in split_subjects(people(50), 0.2, 0.2, seed=0)}
    after = {s.id: s.split for s in split_subjects(people(51), 0.2, 0.2, seed=0)}
    assert sum(before[i] != after[i] for i in before) <= 3


def scans(counts: list[int]) -> list[SkullSubject]:
    """Scans of people: so many of the first, so many of the second."""
    return [
        SkullSubject(f"p{i}_{k}", None, "", None, f"g{i}")
        for i, count in enumerate(counts)
        for k in range(count)
    ]


def test_no_group_is_divided_and_shares_are_shares_of_people() -> None:
    subjects = [*scans([1, 2, 5, 1, 1, 3, 1, 2, 1, 1]), *people(10)]
    for seed in range(20):
        split = split_subjects(subjects, 0.1, 0.25, seed=seed)
        of = {}
        for s in split:
            assert of.setdefault(s.group or s.id, s.split) == s.split
        splits = list(of.values())
        assert [splits.count(x) for x in ("train", "validation", "test")] == [13, 2, 5]


def test_a_group_is_another_thing_than_a_subject_of_its_name() -> None:
    subjects = [*people(4), SkullSubject("a", None, "", None, "p0")]
    assert len({s.split for s in split_subjects(subjects, 0.2, 0.2, seed=0)}) == 3
    keys = [{s.id: s.split for s in split_subjects(subjects, 0.2, 0.4, seed=i)} for i in range(20)]
    assert any(found["a"] != found["p0"] for found in keys)


def test_strata_are_those_of_the_people() -> None:
    subjects = scans([3] * 8 + [1] * 8)
    # The first eight are of stratum x by two of their three scans.
    strata = {s.id: "x" if int(s.group[1:]) < 8 and s.id[-1] != "2" else "y" for s in subjects}
    split = split_subjects(subjects, 0.25, 0.25, seed=0, strata=strata)
    for wanted in ("test", "validation"):
        groups = {s.group for s in split if s.split == wanted}
        assert sum(int(g[1:]) < 8 for g in groups) == 2
        assert len(groups) == 4


def test_too_few_people_are_not_hidden_by_many_scans() -> None:
    (fault,) = faults(split_subjects, scans([20, 20]), 0.25, 0.25, 0)
    assert fault.startswith(
        "split: 40 subjects in 2 groups (one per person) are too few for 1 to validate and 1 to "
        "test"
    )


def test_given_splits_that_divide_a_group_are_refused() -> None:
    given = [
        SkullSubject("a", None, "", "train", "g"),
        SkullSubject("b", None, "", "test", "g"),
        SkullSubject("c", None, "", "train"),
    ]
    assert faults(split_subjects, given, 0.1, 0.1, 0) == (
        "split: a is in train and b, of the same group g, in test: split again with famseg split "
        "--force, or change the column group",
    )


def test_each_split_asked_for_gets_someone() -> None:
    assert sizes(split_subjects(people(3), 0.01, 0.01, 0)) == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }
    assert sizes(split_subjects(people(3), 0.0, 0.4, 0)) == {"train": 2, "test": 1}
    assert sizes(split_subjects(people(2), 0.0, 0.0, 0)) == {"train": 2}


def test_too_few_subjects() -> None:
    assert faults(split_subjects, people(2), 0.1, 0.2, 0) == (
        "split: 2 subjects are too few for 1 to validate and 1 to test: none is left to train on; "
        "add subjects or set data.validation or data.test to 0",
    )


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.2), (0.0, 1.0)])
def test_shares_out_of_range(shares: tuple[float, float]) -> None:
    assert faults(split_subjects, people(9), *shares, 0) == (
        f"split: validation {shares[0]:g} and test {shares[1]:g} must be 0 or more, together "
        "below 1",
    )


def test_splits_of_a_manifest_are_kept() -> None:
    given = [SkullSubject("a", None, "", "test"), SkullSubject("b", None, "", "train")]
    assert split_subjects(given, 0.3, 0.3, 0) == given


def test_splits_for_some_only() -> None:
    some = [SkullSubject("a", None, "", "test"), SkullSubject("b", None, "")]
    assert faults(split_subjects, some, 0.1, 0.1, 0) == (
        "split: 1 of 2 subjects have a split, b has none: give one to all of them or to none",
    )
    none = [SkullSubject("a", None, "", "test")]
    assert faults(split_subjects, none, 0.1, 0.1, 0) == ("split: no subject has the split train",)


def test_each_stratum_gives_its_share_and_the_totals_stay() -> None:
    subjects = people(60)
    strata = {s.id: "ab"[i % 3 == 0] for i, s in enumerate(subjects)}  # 40 and 20
    for seed in range(5):
        split = split_subjects(subjects, 0.1, 0.25, seed, strata=strata)
        assert sizes(split) == {"train": 39, "validation": 6, "test": 15}
        counts = {name: sizes([s for s in split if strata[s.id] == name]) for name in ("a", "b")}
        assert counts["a"] == {"train": 26, "validation": 4, "test": 10}
        assert counts["b"] == {"train": 13, "validation": 2, "test": 5}


def test_strata_of_uneven_size_are_off_by_one_at_most() -> None:
    subjects = people(83)
    strata = {s.id: ("x", "x", "x", "y", "z")[i % 5] for i, s in enumerate(subjects)}
    split = split_subjects(subjects, 0.15, 0.2, 0, strata=strata)
    for name in "xyz":
        own = [s for s in split if strata[s.id] == name]
        assert abs(sizes(own)["test"] - 0.2 * len(own)) <= 1
        assert abs(sizes(own)["validation"] - 0.15 * len(own)) <= 1


def test_a_stratified_split_depends_on_seed_and_names_not_on_order() -> None:
    subjects = people(40)
    strata = {s.id: "ab"[i % 2] for i, s in enumerate(subjects)}
    shuffled = [subjects[i] for i in np.random.default_rng(3).permutation(40)]

    def split(given: list[SkullSubject], seed: int) -> dict[str, str | None]:
        return {s.id: s.split for s in split_subjects(given, 0.2, 0.2, seed, strata=strata)}

    assert split(shuffled, 1) == split(subjects, 1)
    assert split(subjects, 2) != split(subjects, 1)


def test_one_stratum_is_the_split_without_strata() -> None:
    subjects = people(30)
    plain = split_subjects(subjects, 0.2, 0.2, 4)
    assert split_subjects(subjects, 0.2, 0.2, 4, strata=dict.fromkeys("ab", "x")) == plain
    alone = {s.id: s.id for s in subjects}  # every stratum has one subject
    assert split_subjects(subjects, 0.2, 0.2, 4, strata=alone) == plain


def test_words_and_few_numbers_are_strata_as_they_stand() -> None:
    assert strata_of({"a": " f ", "b": "m", "c": "", "d": "7"}) == {
        "a": "f",
        "b": "m",
        "c": "(empty)",
        "d": "7",
    }
    assert strata_of({"a": "0", "b": "1", "c": "2", "d": "3"})["c"] == "2"
    assert strata_of({"a": "nan", "b": "1"}) == {"a": "nan", "b": "1"}


def test_many_numbers_are_cut_at_their_quartiles() -> None:
    strata = strata_of({f"p{i}": str(i) for i in range(100)} | {"x": ""})
    assert [strata[f"p{i}"] for i in (0, 24, 25, 49, 50, 74, 75, 99)] == [
        "0 to 24.75",
        "0 to 24.75",
        "24.75 to 49.5",
        "24.75 to 49.5",
        "49.5 to 74.25",
        "49.5 to 74.25",
        "74.25 to 99",
        "74.25 to 99",
    ]
    assert strata["x"] == "(empty)"
    assert len(set(strata_of({f"p{i}": str(i**3) for i in range(9)}).values())) == 4
