from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK

from famseg.evaluation import FilePair, pair_files, score_files
from famseg.messages import InputError
from famseg.metrics import score
from famseg.volumes import Volume, write_volume

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
        f"{root}/p/b.nrrd: no reference with this name in {root}/t",
        f"{root}/t/c.nrrd: no prediction with this name",
    ]
    pairs, unmatched = pair_files(root / "p", root / "t", root / "p" / "sub")
    assert [pair.name for pair in pairs] == ["a"]
    assert f"{root}/p/sub/a.mha: no defective skull with this name in {root}/p/sub" in unmatched


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
        ((root / "p", root / "t"), r"p/a\.nrrd: has the same name as .*p/a\.mha: keep one of them"),
        ((root / "u", root / "t"), r"u and .*t: no two files have the same name\. Give each pre"),
        ((root / "u", root / "none"), r"none: contains no volume"),
        ((root / "u", root / "x", root / "y"), r"x: there is no such file or folder\n.*/y: there"),
        ((root / "u", root / "t" / "b.nii"), r"b\.nii: is a file, but another is a folder"),
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
    with pytest.raises(
        InputError,
        match=r"a\.nrrd: contains 0, 1 and 2: that is more than one label\. Score each: --l",
    ):
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
        (affine(flip=-1), "origin -19 x 0 x 0 against 0 x 0 x 0 mm"),
        (affine(edges=(1, 1, 3), flip=-1), r"spacing 1 x 1 x 3 against .* mm; origin -19 x 0 x 0"),
    ],
)
def test_another_grid_is_refused_with_what_to_do(files, box, other, said):
    root = files(p__a_nrrd=(box, other), t__a_nii=(box, AFFINE))
    ((pair,), _) = pair_files(root / "p", root / "t")
    advice = (
        r"\. Resample it to that grid by nearest neighbor \(--resample\), or fix the header that"
    )
    with pytest.raises(InputError, match=rf"a\.nrrd: is not on .*a\.nii: {said}.*{advice}"):
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
        (lambda box: box * 0.25 + 0.5, r"contains 0.5 and 0.75: these are not whole numbers\. Thr"),
        (lambda box: box.astype(np.int16) - 1, r"contains -1 and 0: a mask has no values below 0"),
        (lambda box: box.astype(np.uint8) + 1, r"contains 1 and 2: that is more than one label"),
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
    with pytest.raises(InputError, match=r"p/a\.nrrd: prediction is empty\. Set empty="):
        score_files(pair, empty="raise")


def test_one_world_in_another_order_of_axes_is_scored(files, box):
    box[4, 5, 6] = ~box[4, 5, 6]  # no two axes alike
    flipped = affine(origin=(19, 0, 0), flip=-1)
    exchanged = AFFINE[:, [1, 2, 0, 3]]
    root = files(
        p__a_nrrd=(box[::-1], flipped),
        t__a_nii=(box, AFFINE),
        d__a_mha=(~box.transpose(1, 2, 0), exchanged),
    )
    ((pair,), _) = pair_files(root / "p", root / "t", root / "d")
    assert score_files(pair) == {None: score(box, box, (1, 1, 2), defective=~box)}


def turned(degrees):
    """Return the affine of a grid that is turned about its first voxel."""
    made = affine(origin=(-100, -100, -100))
    angle = np.deg2rad(degrees)
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    made[:2, :2] = turn @ made[:2, :2]
    return made


def test_a_small_angle_counts_by_what_it_moves(files):
    mask = np.zeros((256, 256, 40), dtype=bool)
    mask[225:245, 225:245, 10:30] = True
    root = files(p__a_nii=(mask, turned(0.57)), t__a_nii=(mask, turned(0)))
    ((pair,), _) = pair_files(root / "p", root / "t")
    with pytest.raises(InputError, match=r"turned by 0\.57 degrees; corners .* to 3\.59 mm apart"):
        score_files(pair)
    found = score_files(pair, resample=True)[None]
    assert [round(each, 3) for each in (found.dsc, found.hd_mm, found.hd95_mm, found.nsd)] == [
        *(0.81, 2.828, 2.0, 0.972)
    ]


def test_a_finer_grid_is_resampled_by_nearest_neighbor(files, box, caplog):
    fine = np.diag([0.5, 0.5, 2.0, 1.0])
    fine[:2, 3] = -0.25  # the centers of four voxels lie around that of one
    labels = box.astype(np.uint8) * 2
    root = files(
        p__a_nrrd=(labels.repeat(2, axis=0).repeat(2, axis=1), fine), t__a_nii=(labels, AFFINE)
    )
    ((pair,), _) = pair_files(root / "p", root / "t")
    assert score_files(pair, every_label=True, resample=True)[2].dsc == 1.0
    assert not caplog.messages
    root = files(t__a_nii=(labels[:8], AFFINE))
    score_files(pair, resample=True)
    (message,) = caplog.messages
    assert f": 33 % of its foreground lies outside the grid of {pair.truth} and is not" in message


def test_what_is_far_away_is_refused_even_if_resampled(files, box):
    root = files(p__a_nrrd=(box, affine(origin=(500, 0, 0))), t__a_nii=(box, AFFINE))
    ((pair,), _) = pair_files(root / "p", root / "t")
    with pytest.raises(
        InputError, match=r"all of its foreground lies outside the grid of .*a\.nii"
    ):
        score_files(pair, resample=True)


def disk(center):
    x, y = np.indices((40, 30)) - np.reshape(center, (2, 1, 1))
    return np.hypot(x, y) < 8


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd"])
def test_slices_are_scored_by_their_outlines(tmp_path, ending):
    for name, mask in (("p", disk((12, 12))), ("t", disk((15, 12)))):
        image = nibabel.Nifti1Image(mask.astype(np.uint8), np.diag([0.5, 0.5, 4, 1]))
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
        if ending == "nrrd":
            image = SimpleITK.GetImageFromArray(mask.astype(np.uint8).T)
            image.SetSpacing((0.5, 0.5))
            SimpleITK.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    pair = FilePair("a", tmp_path / f"p.{ending}", tmp_path / f"t.{ending}")
    found = score_files(pair)[None]
    assert (found.hd_mm, found.hd95_mm, found.tolerance_mm) == (1.5, 1.5, 0.5)
    assert found.roughness_mm is None
    write_volume(
        Volume(np.ones((40, 30, 5), np.uint8), np.diag([0.5, 0.5, 4, 1])), tmp_path / "v.mha"
    )
    with pytest.raises(InputError, match=r"is a slice and .*v\.mha a volume\. Give the same slice"):
        score_files(FilePair("a", pair.prediction, tmp_path / "v.mha"), resample=True)


def test_a_pair_of_header_and_voxels_is_named_by_either(tmp_path, box):
    nibabel.save(nibabel.Nifti1Pair(box.astype(np.uint8), AFFINE), tmp_path / "a.img")
    nibabel.save(nibabel.Nifti2Image(box.astype(np.uint8), AFFINE), tmp_path / "b.nii")
    for name in ("a.img", "a.hdr"):
        ((pair,), _) = pair_files(tmp_path / name, tmp_path / "b.nii")
        assert (pair.name, score_files(pair)[None].dsc) == ("a", 1.0)
