from __future__ import annotations

from pathlib import Path

import pytest

from famseg.datasets import FLAGS, NOT_TARGETS, SkullSubject, read_subject_list, select_subjects
from famseg.messages import InputError

PEOPLE = [
    SkullSubject("plain", None, ""),
    SkullSubject("cut", None, "", flags=("cut_vault",)),
    SkullSubject("both", None, "", flags=("cut_vault", "existing_defect")),
    SkullSubject("metal", None, "", "train", flags=("metal",)),
    SkullSubject("own", None, "", flags=("seen_by_ann",)),
    SkullSubject("out", None, "", excluded=True),
]


def used(**options) -> list[str]:
    return [s.id for s in select_subjects(PEOPLE, **options).used]


def faults(**options) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        select_subjects(PEOPLE, **options)
    return caught.value.faults


def test_incomplete_skulls_and_those_that_the_manifest_excludes_are_left_out() -> None:
    assert used() == ["plain", "metal", "own"]
    assert set(NOT_TARGETS) <= set(FLAGS)
    assert select_subjects(PEOPLE).left_out == {
        "cut": ("cut_vault",),
        "both": ("cut_vault", "existing_defect"),
        "out": ("excluded in the manifest",),
    }


def test_flags_are_excluded_and_included() -> None:
    assert used(exclude=["metal"]) == ["plain", "own"]
    assert used(exclude=["seen_by_ann"]) == ["plain", "metal"], "a flag that somebody wrote"
    assert used(include=["cut_vault"]) == ["plain", "cut", "metal", "own"]
    assert used(include=list(NOT_TARGETS)) == ["plain", "cut", "both", "metal", "own"]
    assert used(unwanted=["plain", "own"]) == ["metal"]


def test_a_sentence_says_how_many_and_how_to_use_them() -> None:
    selection = select_subjects(PEOPLE, unwanted=["own", "cut"])
    assert selection.sentence("data.") == (
        "4 of 6 subjects are not used as targets: 2 with cut_vault, 2 on the list, "
        "1 with existing_defect, 1 excluded in the manifest. To use those with cut_vault or "
        "existing_defect: famseg split --force --include cut_vault,existing_defect, then "
        "data.include=[cut_vault,existing_defect]."
    )
    assert select_subjects(PEOPLE[:2]).sentence("--") == (
        "1 of 2 subjects is not used as a target: 1 with cut_vault. To use them: "
        "--include cut_vault."
    )
    assert select_subjects(PEOPLE[:1]).sentence("--") == ""


def test_the_manifest_is_split_again_with_the_flags_that_are_included() -> None:
    out = SkullSubject("out", None, "", flags=("existing_defect",), excluded=True)
    selection = select_subjects([PEOPLE[0], out], include=["existing_defect"])
    assert selection.sentence("--") == (
        "1 of 2 subjects is not used as a target: 1 excluded in the manifest. To use them: "
        "famseg split --force --include existing_defect."
    )
    listed = select_subjects(PEOPLE[:1] + PEOPLE[3:4], exclude=["metal"]).sentence("--")
    assert listed.endswith("used as a target: 1 with metal."), "who asked for it knows how"


def test_unknown_flags_are_refused_with_near_names() -> None:
    assert faults(exclude=["metall"], include=["cut_valt"]) == (
        "--exclude: there is no flag 'metall': did you mean metal?",
        "--include: there is no flag 'cut_valt': did you mean cut_vault?",
    )
    (line,) = faults(include=["qqq"], prefix="data.")
    assert line.startswith("data.include: there is no flag 'qqq': there are cut_vault, existing_")
    assert line.endswith(", seen_by_ann")
    assert faults(exclude=["metal"], include=["metal"]) == (
        "--include: metal is excluded by --exclude: name it in only one of them",
    )


def test_nobody_left_is_one_line() -> None:
    with pytest.raises(InputError) as caught:
        select_subjects(PEOPLE[1:3])
    assert caught.value.faults == (
        "no subject is left to use: 2 with cut_vault, 1 with existing_defect. To use them: "
        "--include cut_vault,existing_defect.",
    )


def test_a_list_has_a_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "exclude.txt"
    path.write_bytes(b"\xef\xbb\xbfb c\r\n\r\n a\nb c\n")
    assert read_subject_list(path, ["a", "b c", "d"]) == ("b c", "a")
    with pytest.raises(InputError) as caught:
        read_subject_list(path, ["d", "x"])
    assert caught.value.faults == (
        f"{path}:1: there is no subject b c: write one name per line",
        f"{path}:3: there is no subject a: write one name per line",
        f"{path}:4: there is no subject b c: write one name per line",
    )
    path.write_text("head_01\n")
    with pytest.raises(InputError, match=r"there is no subject head_01: did you mean head_1\?"):
        read_subject_list(path, ["head_1"])


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00\x81"])
def test_a_list_that_cannot_be_read_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "exclude.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path}: (there is no such file|is not readable text)"):
        read_subject_list(path, [])
    with pytest.raises(InputError, match=f"^{tmp_path}: is not readable text"):
        read_subject_list(tmp_path, [])
