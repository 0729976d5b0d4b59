from __future__ import annotations

import re

import pytest
from made_runs import BASELINE, FAM, make_run

from famseg.files import write_json
from famseg.messages import InputError
from famseg.reporting import (
    check_comparable,
    compare_runs,
    comparison_page,
    find_runs,
    render,
)

DSC = "test/set1/implant/dsc"
NAME = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two lambdas and a baseline over eight seeds, one run without an end and one failed case."""
    path = tmp_path_factory.mktemp("runs")
    for seed in range(8):
        wave = 0.01 * (seed % 3)
        make_run(path, f"base{seed}", seed=seed, dsc=[0.80 + wave, 0.70, 0.60])
        make_run(path, f"fam{seed}", seed=seed, settings=FAM, dsc=[0.86 + wave, 0.75, 0.70])
        weak = [0.80 + wave, 0.71 - wave, 0.0 if seed == 7 else 0.60]
        make_run(path, f"weak{seed}", seed=seed, settings=("lambda=0.001",), dsc=weak)
    make_run(path, "evil", seed=9, settings=FAM, epochs=1).rename(path / NAME)
    return path


@pytest.fixture(scope="module")
def page(folder):
    return comparison_page(find_runs([folder]))


def test_the_verdict_has_the_numbers_of_the_comparison(folder, page):
    (seeds,) = compare_runs(find_runs([folder]).runs)
    found = seeds.pairings["FAM lambda=0.1", DSC]
    line = next(each for each in page.findings if each.startswith("FAM lambda=0.1 against"))
    assert (
        f"{found.difference:+.3f} DSC of the implant, set1, 95 % interval {found.low:+.3f} to "
        f"{found.high:+.3f}, n = 8 seeds: better than the baseline"
    ) in line
    weak = next(each for each in page.findings if each.startswith("FAM lambda=0.001 against"))
    assert "n = 8 seeds: no difference shown (p = " in weak
    assert "The same trainings on new cases" in weak
    assert "not the same as no difference" in page.findings[-1]


def test_what_did_not_finish_is_shown_and_in_no_mean(page):
    assert page.facts["Not finished, not in any mean"] == "1 run"
    assert any(NAME in line and "not finished" in line for line in page.warnings)
    runs = next(table for table in page.tables if table.title == "Runs")
    assert [runs.rows[row][0] for row in runs.marked] == [NAME]
    assert len(runs.rows) == 25


def test_failed_cases_are_counted(page):
    pairs = next(table for table in page.tables if table.title.startswith("Differences"))
    of_cases = [row for row in pairs.rows if row[2] == "case" and row[1] == "FAM lambda=0.001"]
    assert of_cases[0][4] == 1


def test_settings_that_differ_are_the_lambda_and_the_kind(page):
    table = next(table for table in page.tables if table.title == "Settings that differ")
    assert [row[0] for row in table.rows] == ["penalty.kind", "penalty.lambda"]


def test_figures_say_metric_unit_and_n(page):
    titles = [image.title for image in page.images]
    assert titles[0] == "DSC of the implant, set1 against lambda"
    assert "difference to baseline per case" in titles[1]
    text = page.images[0].content.decode()
    assert "DSC of the implant, set1 (0 to 1)" in text
    assert text.count("n = 8") == 3
    assert "//" in text  # lambda 0 stands apart


def test_a_page_of_several_runs_is_safe(page):
    text = render(page)
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    assert len(text) < 2e6


def test_few_seeds_cannot_show_a_difference(tmp_path):
    for seed in range(2):
        make_run(tmp_path, f"a{seed}", seed=seed, metrics={DSC: 0.5 + seed / 100})
        make_run(tmp_path, f"b{seed}", seed=seed, settings=FAM, metrics={DSC: 0.9})
    line = comparison_page(find_runs([tmp_path])).findings[0]
    assert "no difference can be shown with 2 seeds (p is 0.5 or more)" in line
    make_run(tmp_path / "one", "a", metrics={DSC: 0.5})
    make_run(tmp_path / "one", "b", settings=FAM, metrics={DSC: 0.9})
    line = comparison_page(find_runs([tmp_path / "one"])).findings[0]
    assert "n = 1 seed: a single pair" in line


def test_runs_on_other_data_are_compared_apart(tmp_path):
    for number, data in enumerate(("aa", "bb")):
        for name, settings, value in (("x", BASELINE, 0.5), ("y", FAM, 0.6)):
            make_run(
                tmp_path, f"{name}{number}", settings=settings, metrics={DSC: value}, data_hash=data
            )
    page = comparison_page(find_runs([tmp_path]))
    assert "compared separately" in page.lead
    assert len({line.partition(":")[0] for line in page.findings[:-1]}) == 2


def test_without_a_baseline_nothing_is_claimed(tmp_path):
    for seed in range(2):
        make_run(tmp_path, f"a{seed}", seed=seed, settings=FAM, metrics={DSC: 0.5})
        make_run(tmp_path, f"b{seed}", seed=seed, settings=("lambda=1",), metrics={DSC: 0.6})
    page = comparison_page(find_runs([tmp_path]))
    assert all("no baseline to compare" in line for line in page.findings[:-1])
    assert any("Choose one with --baseline" in line for line in page.warnings)


def test_one_run_is_no_comparison(tmp_path):
    make_run(tmp_path, "a", metrics={DSC: 0.5})
    with pytest.raises(InputError, match="is the only run in the folder"):
        check_comparable(find_runs([tmp_path]))


def test_kappa_by_measure_is_taken_where_more_runs_have_it(tmp_path):
    for seed, settings in ((0, BASELINE), (1, FAM)):
        path = make_run(tmp_path, f"a{seed}", seed=seed, settings=settings, metrics={DSC: 0.5})
        (path / "flatness").mkdir()
        rows = [{"name": "expand", "kappa": 0.25 + seed}]
        write_json(path / "flatness" / "report.json", {"rows": rows})
        line = '{"epoch": 2, "time": 0, "train/loss": 0.4, "val/loss": 0.5}\n'
        (path / "metrics.jsonl").write_text(line)
    page = comparison_page(find_runs([tmp_path]))
    image = next(image for image in page.images if "Kappa" in image.title)
    assert "kappa of expand, by famseg measure" in image.content.decode()
    assert re.search(r"validation loss minus training loss", image.content.decode())
