from __future__ import annotations

import pytest
from made_runs import make_run, write_class_cases

from famseg.messages import InputError
from famseg.reporting._cases import read_case_table


def table(run):
    return read_case_table(run / "evaluation" / "cases.csv")


@pytest.fixture
def skulls(tmp_path):
    return table(make_run(tmp_path, "a", dsc=[0.5, 0.0]))


@pytest.fixture
def images(tmp_path):
    write_class_cases(tmp_path, [1, 0])
    return table(tmp_path)


def test_a_score_of_skulls_is_found_by_set_and_region(skulls):
    assert skulls.scores("test/set1/implant/dsc") == {
        ("set1", "model", "implant", "head0"): (0.5, False),
        ("set1", "model", "implant", "head1"): (0.0, True),
    }


def test_a_score_of_a_classifier_is_found_by_set(images):
    assert images.scores("test/accuracy") == {
        ("test", "test-0"): (1.0, False),
        ("test", "test-1"): (0.0, False),
    }
    assert images.scores("train/evaluation_loss") == {("train", "train-0"): (0.1, False)}


@pytest.mark.parametrize(
    "metric",
    ["test/set1/variance_ratio", "test/set2/implant/dsc", "test/set1/skull/dsc", "test/gap"],
)
def test_what_is_no_score_of_single_cases_is_none(skulls, metric):
    assert skulls.scores(metric) is None


def test_other_cases_are_told_apart(tmp_path):
    a, b, c = (
        table(make_run(tmp_path, name, dsc=dsc))
        for name, dsc in (("a", [0.1, 0.2]), ("b", [0.3, 0.4]), ("c", [0.3, 0.4, 0.5]))
    )
    assert a.identity == b.identity != c.identity


def test_the_same_subject_with_another_hole_is_another_case(tmp_path):
    path = make_run(tmp_path, "a", dsc=[0.1]) / "evaluation" / "cases.csv"
    before = read_case_table(path).identity
    path.write_text(path.read_text().replace(",100,", ",101,"))
    assert read_case_table(path).identity != before


def test_without_a_table_there_is_none(tmp_path):
    assert read_case_table(tmp_path / "cases.csv") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("set,subject,loss\ntest,a,nan\n", r"'nan' for test/loss is not a number\. Eval"),
        ("set,subject,loss\ntest,a,x\n", r"'x' for test/loss is not a number"),
        ("set,subject,loss\ntest,a,1e999\n", r"'1e999' for test/loss is not a number"),
        ("set,subject,loss\ntest,a,-1e200\n", r"'-1e200' for test/loss is not a number"),
        ("set,subject,loss\ntest,a\n", r"has rows of different length\. Evaluate the run again"),
        ("", r"cannot be read \(not enough values .*\)\. Evaluate the run again"),
    ],
)
def test_a_broken_table_is_one_line(tmp_path, text, message):
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_case_table(tmp_path / "cases.csv").scores("test/loss")
