from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from famseg.evaluation import case_scores, read_cases, write_cases
from famseg.evaluation.skulls._cases import CaseScorer
from famseg.messages import InputError
from famseg.metrics import border_dice, dice, surface_roughness, surface_scores

SPACING = (1.0, 2.0, 0.5)


@pytest.fixture
def rows(box):
    region = np.zeros_like(box)
    region[8:, :, :] = True
    answer = np.roll(box, 1, axis=1)
    return case_scores(answer, box, region, SPACING, subject="a", dataset="set1")


def test_the_whole_skull_and_the_removed_region_are_scored(box, rows):
    answer = np.roll(box, 1, axis=1)
    skull, _, implant = rows
    assert [row.region for row in rows] == ["skull", "implant", "implant_masked"]
    assert (skull.set, skull.subject, skull.source) == ("set1", "a", "model")
    assert skull.dsc == dice(answer, box)
    inside = np.zeros_like(box)
    inside[8:] = True
    assert implant.dsc == dice(answer & inside, box & inside)
    wanted = surface_scores(answer & inside, box & inside, SPACING)
    assert {name: getattr(implant, name) for name in wanted} == wanted
    assert (skull.voxels, skull.truth_voxels) == (120, 120)
    assert (implant.voxels, implant.truth_voxels) == (40, 40)
    assert skull.tolerance_mm == 2.0
    assert not skull.failed
    assert not skull.empty_truth


def test_border_and_roughness_are_those_of_the_implant(box, rows):
    answer = np.roll(box, 1, axis=1)
    inside = np.zeros_like(box)
    inside[8:] = True
    skull, _, implant = rows
    assert (skull.bdsc, skull.roughness_mm) == (None, None)
    bone = box & ~inside
    assert implant.bdsc == border_dice(answer & inside, box & inside, bone, SPACING)
    assert implant.roughness_mm == surface_roughness(answer & inside, SPACING)
    assert (skull.components, implant.components) == (1, 1)
    assert skull.volume_difference_ml == 0.0


def test_an_empty_answer_has_failed_and_is_scored_by_the_rule(box):
    skull, *implants = case_scores(
        np.zeros_like(box), box, box, (1.0, 1.0, 1.0), subject="a", dataset="set1"
    )
    for row in (skull, *implants):
        assert (row.failed, row.empty_truth, row.dsc, row.voxels) == (True, False, 0.0, 0)
        assert row.hd95_mm == pytest.approx(20 * np.sqrt(3))
        assert (row.components, row.volume_difference_ml) == (0, pytest.approx(-0.12))
    assert [(row.bdsc, row.roughness_mm) for row in implants] == [(0.0, 5.0)] * 2


def test_bone_in_the_wrong_place_counts_against_the_implant(box):
    region = np.zeros_like(box)
    region[8:] = True
    answer = box.copy()
    answer[0, :, :] = True  # 400 voxels far from the removed region
    skull, implant, masked = case_scores(answer, box, region, SPACING, subject="a", dataset="set1")
    wanted = np.count_nonzero(box & region)
    assert (implant.voxels, implant.truth_voxels) == (wanted + 400, wanted)
    assert implant.dsc == pytest.approx(2 * wanted / (2 * wanted + 400))
    assert masked.dsc == 1.0
    assert skull.dsc < 1.0


def test_only_the_wanted_regions_are_scored(box):
    rows = case_scores(box, box, box, SPACING, subject="a", dataset="set1", regions=("implant",))
    assert [row.region for row in rows] == ["implant"]


def test_a_region_without_bone_is_right_when_left_empty(box):
    region = ~box
    *_, implant = case_scores(box, box, region, SPACING, subject="a", dataset="set1")
    assert (implant.failed, implant.empty_truth, implant.dsc, implant.hd_mm) == (False, True, 1, 0)
    *_, implant = case_scores(region, box, region, SPACING, subject="a", dataset="set1")
    assert (implant.failed, implant.empty_truth, implant.dsc) == (True, True, 0)


def test_a_fault_names_set_and_subject(box):
    with pytest.raises(ValueError, match=r"^set2, subject b: prediction has shape \(2, 2, 2\)"):
        case_scores(np.ones((2, 2, 2)), box, box, SPACING, subject="b", dataset="set2")


def test_several_predictions_of_a_case_score_as_each_does_alone(box):
    region = np.zeros_like(box)
    region[8:] = True
    moved = np.roll(box, 1, axis=1)
    told = (box & ~region) | (moved & region)  # its implant is that of `moved`, masked
    scorer = CaseScorer(box, region, SPACING, subject="a", dataset="set1")
    for answer in (moved, told, moved, np.zeros_like(box)):
        for tolerance in (None, 0.5):
            alone = case_scores(
                *(answer, box, region, SPACING), subject="a", dataset="set1", tolerance_mm=tolerance
            )
            assert scorer.scores(answer, tolerance_mm=tolerance) == alone


def test_a_table_comes_back_as_it_was(rows, tmp_path):
    values = {**rows[0].values, "dsc": 1 / 3}
    odd = replace(rows[0], subject='b, "c"\nd', source="mean_skull", values=values, failed=True)
    write_cases([*rows, odd], tmp_path / "cases.csv")
    assert read_cases(tmp_path / "cases.csv") == [*rows, odd]
    assert [path.name for path in tmp_path.iterdir()] == ["cases.csv"]


def test_a_table_has_a_column_for_each_value(rows, tmp_path):
    write_cases(rows, tmp_path / "cases.csv")
    header, first, *_ = (tmp_path / "cases.csv").read_text().splitlines()
    assert header.split(",") == [
        *("set", "subject", "source", "region"),
        *rows[0].values,
        *("tolerance_mm", "voxels", "truth_voxels", "failed", "empty_truth"),
    ]
    assert first.startswith("set1,a,model,skull,0.8,")


def test_a_table_without_a_metric_that_came_later_is_read(rows, tmp_path):
    """A run of an older version is still compared and shown: what it lacks is None."""
    write_cases(rows, tmp_path / "cases.csv")
    lines = (tmp_path / "cases.csv").read_text().splitlines()
    at = lines[0].split(",").index("assd_mm")
    older = [",".join(v for i, v in enumerate(line.split(",")) if i != at) for line in lines]
    (tmp_path / "older.csv").write_text("\n".join(older) + "\n")
    found = read_cases(tmp_path / "older.csv")
    assert [row.dsc for row in found] == [row.dsc for row in rows]
    assert {row.assd_mm for row in found} == {None}


def test_all_faults_of_a_table_come_at_once(rows, tmp_path):
    path = tmp_path / "cases.csv"
    write_cases([*rows, *rows, *rows], path)
    lines = path.read_text().splitlines()
    width = len(lines[0].split(","))
    lines[1] = lines[1].replace("skull", "skul")
    lines[2] = ",".join([*lines[2].split(",")[:4], "nan", *lines[2].split(",")[5:]])
    lines[3] += ",7"
    lines[4] = lines[4].rsplit(",", 1)[0]
    lines[5] = lines[5].replace("False,False", "False,no")
    path.write_text("\n".join(lines))
    with pytest.raises(InputError) as caught:
        read_cases(path)
    assert list(caught.value.faults) == [
        f"{path}:2: region is 'skul'. Choose from skull, implant, implant_masked.",
        f"{path}:3: dsc is 'nan'. Give a finite number.",
        f"{path}:4: does not have {width} values. Write the table again.",
        f"{path}:5: does not have {width} values. Write the table again.",
        f"{path}:6: empty_truth is 'no'. Choose from True, False.",
    ]


def test_another_table_is_refused(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(
        InputError, match=r"cases\.csv:1: the columns are not those of a case table"
    ):
        read_cases(path)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: cannot be read .*Give a cases\.csv"):
        read_cases(tmp_path / "none.csv")
