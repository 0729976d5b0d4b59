from __future__ import annotations

import numpy as np
import pytest

from famseg.config import InputError
from famseg.datasets import Volume, write_volume
from famseg.evaluation import FilePair, pair_files, score, score_files

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def files(tmp_path, box):
    """Write masks as files; a folder a set."""

    def write(**masks):
        for path, (array, affine) in masks.items():
            folder, name = path.split("__")
            target = tmp_path / folder / name.replace("_", "/", name.count("_") - 1)
            target = target.with_name(target.name.replace("_", "."))
            target.parent.mkdir(parents=True, exist_ok=True)
            write_volume(Volume(array, affine), target)
        return tmp_path

    return write


def test_files_of_one_name_belong_together(files, box):
    root = files(
        p__a_nrrd=(box, AFFINE),
        t__a_nii=(box, AFFINE),
        p__sub_a_mha=(box, AFFINE),
        t__sub_a_nrrd=(box, AFFINE),
        p__b_nrrd=(box, AFFINE),
        t__c_nrrd=(box, AFFINE),
    )
    pairs, unmatched = pair_files(root / "p", root / "t")
    assert [pair.name for pair in pairs] == ["a", "sub/a"]
    assert pairs[1].truth == root / "t" / "sub" / "a.nrrd"
    assert unmatched == [
        f"{root}/p/b.nrrd: no truth of that name in {root}/t",
        f"{root}/t/c.nrrd: no prediction of that name",
    ]
    pairs, unmatched = pair_files(root / "p", root / "t", root / "p" / "sub")
    assert [pair.name for pair in pairs] == ["a"]
    assert f"{root}/p/sub/a.mha: no defective skull of that name in {root}/p/sub" in unmatched


def test_two_files_need_no_common_name(files, box):
    root = files(p__a_nrrd=(box, AFFINE), t__b_nii=(box, AFFINE))
    pairs, unmatched = pair_files(root / "p" / "a.nrrd", root / "t" / "b.nii")
    assert pairs == [FilePair("a", root / "p" / "a.nrrd", root / "t" / "b.nii")]
    assert unmatched == []


def test_what_cannot_be_paired_is_refused(files, box):
    root = files(
        p__a_nrrd=(box, AFFINE),
        p__a_mha=(box, AFFINE),
        t__b_nii=(box, AFFINE),
        u__c_mha=(box, AFFINE),
    )
    (root / "none").mkdir()
    for arguments, message in (
        ((root / "p", root / "t"), r"p/a\.nrrd: has the name of .*p/a\.mha: keep one of them"),
        ((root / "u", root / "t"), r"u and .*t: no two files have the same name\. Name a predict"),
        ((root / "u", root / "none"), r"none: holds no volume"),
        ((root / "u", root / "x", root / "y"), r"x: there is no such file or folder\n.*/y: there"),
        ((root / "u", root / "t" / "b.nii"), r"b\.nii: is a file, and another is a folder"),
    ):
        with pytest.raises(InputError, match=message):
            pair_files(*arguments)


def test_the_header_s_spacing_counts(files, box):
    prediction = np.roll(box, 1, axis=2)
    root = files(p__a_nrrd=(prediction, AFFINE), t__a_nii=(box, AFFINE), d__a_mha=(~box, AFFINE))
    ((pair,), _) = pair_files(root / "p", root / "t", root / "d")
    found = score_files(pair)
    assert found == {None: score(prediction, box, (1, 1, 2), defective=~box)}
    assert found[None].hd_mm == 2.0


def test_any_one_value_is_foreground(files, box):
    root = files(p__a_nrrd=(box * np.uint8(255), AFFINE), t__a_nii=(box.astype(np.int32), AFFINE))
    ((pair,), _) = pair_files(root / "p", root / "t")
    assert score_files(pair)[None].dsc == 1.0


def test_labels_are_scored_one_by_one(files, box):
    labels = box + 2 * np.roll(box, 8, axis=0).astype(np.uint8)
    root = files(p__a_nrrd=(labels, AFFINE), t__a_nii=(labels, AFFINE))
    ((pair,), _) = pair_files(root / "p", root / "t")
    assert list(score_files(pair, every_label=True)) == [1, 2]
    assert list(score_files(pair, labels=[2, 5])) == [2, 5]
    with pytest.raises(InputError, match=r"a\.nrrd: holds more than one label\. Score each: --l"):
        score_files(pair)


def affine(edges=(1, 1, 2), origin=(0, 0, 0), flip=1):
    made = np.diag([flip * edges[0], edges[1], edges[2], 1.0])
    made[:3, 3] = origin
    return made


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (affine(edges=(1, 1, 2.1)), "spacing 1 x 1 x 2.1 against 1 x 1 x 2 mm"),
        (affine(origin=(0, 5, 0)), "origin 0 x 5 x 0 against 0 x 0 x 0 mm"),
        (affine(flip=-1), "orientation LAS against RAS"),
        (affine(edges=(1, 1, 3), flip=-1), r"spacing .* mm; orientation LAS against RAS"),
    ],
)
def test_another_grid_is_refused_with_what_to_do(files, box, other, said):
    root = files(p__a_nrrd=(box, other), t__a_nii=(box, AFFINE))
    ((pair,), _) = pair_files(root / "p", root / "t")
    advice = r"\. Resample it to that grid by nearest neighbour, or mend the header that is wrong\."
    with pytest.raises(InputError, match=rf"p/a\.nrrd: does not lie on .*a\.nii: {said}{advice}"):
        score_files(pair)


def test_another_shape_is_refused_of_the_defective_skull_too(files, box):
    root = files(p__a_nrrd=(box[1:], AFFINE), t__a_nii=(box, AFFINE), d__a_mha=(box[:, 1:], AFFINE))
    ((pair,), _) = pair_files(root / "p", root / "t", root / "d")
    with pytest.raises(InputError) as caught:
        score_files(pair)
    said = [fault.split(": ")[2].split(".")[0] for fault in caught.value.faults]
    assert said == [
        "shape 19 x 20 x 20 against 20 x 20 x 20",
        "shape 20 x 19 x 20 against 20 x 20 x 20",
    ]


def test_headers_that_differ_in_their_last_digits_are_one_grid(files, box):
    other = affine(edges=(1.00001, 1, 2), origin=(0.01, 0, -0.01))
    root = files(p__a_nrrd=(box, other), t__a_nii=(box, AFFINE))
    ((pair,), _) = pair_files(root / "p", root / "t")
    assert score_files(pair)[None].dsc == 1.0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (lambda box: box * 0.25 + 0.5, r"holds numbers that are not whole\. Threshold it, as at"),
        (lambda box: -box.astype(np.int16), r"holds negative values, down to -1: no mask"),
    ],
)
def test_volumes_that_are_no_masks_are_refused(files, box, values, said):
    root = files(p__a_nrrd=(values(box), AFFINE), t__a_nii=(box, AFFINE))
    ((pair,), _) = pair_files(root / "p", root / "t")
    with pytest.raises(InputError, match=rf"p/a\.nrrd: {said}"):
        score_files(pair)


def test_an_empty_file_is_a_failed_case_not_an_error(files, box):
    root = files(p__a_nrrd=(np.zeros_like(box), AFFINE), t__a_nii=(box, AFFINE))
    ((pair,), _) = pair_files(root / "p", root / "t")
    assert score_files(pair)[None].failed
    with pytest.raises(InputError, match=r"p/a\.nrrd: prediction is empty\. Score it with empty="):
        score_files(pair, empty="raise")
